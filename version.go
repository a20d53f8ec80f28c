package main

import (
	"fmt"
	"io"
	"runtime/debug"
	"strings"

	"github.com/alecthomas/kong"
)

// versionCmd is `piko version`.
type versionCmd struct{}

// Run prints the version.
func (versionCmd) Run(p *process) error { return printVersion(p.stdout) }

// versionFlag is `piko --version`.
type versionFlag bool

// IgnoreDefault keeps kong from running a default command.
func (versionFlag) IgnoreDefault() {}

// BeforeReset prints the version before anything else is checked.
func (versionFlag) BeforeReset(ctx *kong.Context) error {
	if err := printVersion(ctx.Stdout); err != nil {
		return err
	}
	return errHelpShown{}
}

func printVersion(w io.Writer) error {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		info = &debug.BuildInfo{}
	}
	_, err := fmt.Fprintln(w, "piko "+versionOf(info))
	return err
}

// version is the short one, for logs.
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

// versionOf is what the build knows of itself: module version, commit and
// toolchain, such as v1.2.3 (commit 0123456789ab, go1.26.8, linux/amd64).
func versionOf(info *debug.BuildInfo) string {
	setting := map[string]string{}
	for _, s := range info.Settings {
		setting[s.Key] = s.Value
	}
	version := info.Main.Version
	if version == "" {
		version = "(devel)"
	}
	var notes []string
	if commit := setting["vcs.revision"]; commit != "" {
		note := "commit " + commit[:min(12, len(commit))]
		if setting["vcs.modified"] == "true" {
			note += " with changes"
		}
		notes = append(notes, note)
	}
	notes = append(notes, info.GoVersion)
	if setting["GOOS"] != "" {
		notes = append(notes, setting["GOOS"]+"/"+setting["GOARCH"])
	}
	return version + " (" + strings.Join(notes, ", ") + ")"
}
