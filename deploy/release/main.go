// Command release makes everything that is handed out of one version of piko:
// static binaries in archives, packages for Debian and RPM systems, a bill of
// materials (CycloneDX) beside each binary, and checksums of it all.
//
// The same commit and the same Go give the same bytes, whoever builds, wherever
// and whenever: nothing of the machine gets in, and the only time is the commit's.
//
//	go -C deploy/release run .                        # the tagged commit that is checked out
//	go -C deploy/release run . -version v1.2.3-rc.1   # or one that has no tag
//
// It is a module of its own, so that its dependencies are not piko's.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("release", flag.ExitOnError)
	version := flags.String("version", "", "version to make, as v1.2.3 or v1.2.3-rc.1; the commit's tag when not given")
	root := flags.String("root", "../..", "directory of piko's source")
	out := flags.String("out", "", "directory to write to, which must not exist or be empty (default ROOT/dist)")
	platforms := flags.String("platforms", strings.Join(allPlatforms, ","), "platforms to build for")
	dirty := flags.Bool("dirty", false, "build from a tree that is not exactly a commit, or no repository; the binary then names no commit")
	if err := flags.Parse(args); err != nil || flags.NArg() > 0 {
		return errors.Join(err, errors.New("no arguments wanted, only flags"))
	}
	source, err := findSource(ctx, *root, *version, *dirty)
	if err != nil {
		return err
	}
	if *out == "" {
		*out = filepath.Join(source.root, "dist")
	}
	return source.release(ctx, *out, strings.Split(*platforms, ","))
}

// release fills the directory.
func (s *source) release(ctx context.Context, out string, platforms []string) error {
	if entries, err := os.ReadDir(out); err == nil && len(entries) > 0 {
		return fmt.Errorf("%s is not empty: remove it, or choose another with -out", out)
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	fmt.Printf("piko %s, commit %s, %s, in %s\n", s.version, s.commitName(), s.time.Format("2006-01-02 15:04:05 MST"), out)
	work, err := os.MkdirTemp("", "piko-release-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	completions, err := s.completions(ctx, work)
	if err != nil {
		return err
	}
	for _, name := range platforms {
		b, err := s.build(ctx, name, work)
		if err == nil {
			err = s.pack(b, completions, out)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return writeChecksums(out)
}

// pack makes everything out of one binary.
func (s *source) pack(b *binary, completions map[string][]byte, out string) error {
	bom, err := s.billOfMaterials(b)
	if err != nil {
		return err
	}
	name := fmt.Sprintf("piko_%s_%s_%s", s.plainVersion(), b.os, b.arch)
	if err := os.WriteFile(filepath.Join(out, name+".cdx.json"), bom, 0o644); err != nil {
		return err
	}
	files, err := s.archiveFiles(b, completions)
	if err != nil {
		return err
	}
	if b.os == "windows" {
		err = writeZip(filepath.Join(out, name+".zip"), name, files, s.time)
	} else {
		err = writeTar(filepath.Join(out, name+".tar.gz"), name, files, s.time)
	}
	if err != nil || b.os != "linux" {
		return err
	}
	return s.writePackages(b, completions, out)
}
