package main

import (
	"cmp"
	"fmt"
	"io"
	"runtime/debug"
	"strings"

	"github.com/alecthomas/kong"
)

// What the release program (deploy/release) says of the build, by the linker's -X:
// it builds without a repository, so that the same source gives the same bytes
// everywhere. Empty in any other build.
var releaseVersion, releaseCommit string

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
	_, err := fmt.Fprintln(w, "piko "+versionOf(buildInfo()))
	return err
}

// version is the short one, for logs.
func version() string { return cmp.Or(buildInfo().Main.Version, "(devel)") }

// buildInfo is what the build knows of itself, or what its release says.
func buildInfo() *debug.BuildInfo {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		info = &debug.BuildInfo{}
	}
	return released(info, releaseVersion, releaseCommit)
}

// released is info with the version and commit of a release, if it is one.
func released(info *debug.BuildInfo, version, commit string) *debug.BuildInfo {
	if version == "" {
		return info
	}
	info.Main.Version = version
	info.Settings = append(info.Settings, debug.BuildSetting{Key: "vcs.revision", Value: commit})
	return info
}

// versionOf is what the build knows of itself: module version, commit and
// toolchain, such as v1.2.3 (commit 0123456789ab, go1.26.8, linux/amd64).
func versionOf(info *debug.BuildInfo) string {
	setting := map[string]string{}
	for _, s := range info.Settings {
		setting[s.Key] = s.Value
	}
	version := cmp.Or(info.Main.Version, "(devel)")
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
