package main

import (
	"bytes"
	"context"
	"debug/buildinfo"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
)

// allPlatforms are those that are released.
var allPlatforms = []string{"linux/amd64", "linux/arm64", "darwin/amd64", "darwin/arm64", "windows/amd64", "windows/arm64"}

// binary is one that was built.
type binary struct {
	os, arch string
	content  []byte
	info     *debug.BuildInfo
	modules  []module // what is in it besides piko
}

// shells are those that there are completion scripts for.
var shells = []string{"bash", "zsh", "fish"}

// build builds for a platform. work is for scratch files.
func (s *source) build(ctx context.Context, platform, work string) (*binary, error) {
	goos, arch, ok := strings.Cut(platform, "/")
	if !ok {
		return nil, errors.New("a platform is one such as linux/amd64")
	}
	path, err := s.compile(ctx, goos, arch, work)
	if err != nil {
		return nil, err
	}
	b := &binary{os: goos, arch: arch}
	if b.content, err = os.ReadFile(path); err != nil {
		return nil, err
	}
	if b.info, err = buildinfo.Read(bytes.NewReader(b.content)); err != nil {
		return nil, err
	}
	b.modules, err = s.modulesOf(ctx, b.info)
	return b, err
}

// compile runs the go command, with nothing left to its surroundings, unless it
// has done so before, and returns the path of the binary.
func (s *source) compile(ctx context.Context, goos, arch, work string) (string, error) {
	to := filepath.Join(work, "piko_"+goos+"_"+arch)
	if _, err := os.Stat(to); err == nil {
		return to, nil
	}
	ldflags := fmt.Sprintf("-s -w -X main.releaseVersion=%s -X main.releaseCommit=%s", s.version, s.commit)
	cmd := s.goCommand(ctx, "build", "-trimpath", "-buildvcs=false", "-mod=readonly", "-ldflags", ldflags, "-o", to, ".")
	cmd.Env = append(cmd.Env, "GOOS="+goos, "GOARCH="+arch)
	return to, cmd.Run()
}

// goCommand is the go command in the source, its error output shown. Of the
// settings of Go only those that say where things are come from outside.
func (s *source) goCommand(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir, cmd.Stderr = s.root, os.Stderr
	places := []string{"GOROOT", "GOPATH", "GOMODCACHE", "GOCACHE", "GOTMPDIR", "GOPROXY", "GOSUMDB", "GONOSUMDB", "GONOPROXY", "GOPRIVATE", "GOINSECURE", "GOENV"}
	for _, e := range os.Environ() {
		name, _, _ := strings.Cut(e, "=")
		if !strings.HasPrefix(name, "GO") && !strings.HasPrefix(name, "CGO") || slices.Contains(places, name) {
			cmd.Env = append(cmd.Env, e)
		}
	}
	cmd.Env = append(cmd.Env, "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=", "GOEXPERIMENT=", "GODEBUG=", "GOTOOLCHAIN=local",
		"GOAMD64=v1", "GOARM64=v8.0", "GOFIPS140=off")
	return cmd
}

// completions are the scripts that the binary for this machine prints.
func (s *source) completions(ctx context.Context, work string) (map[string][]byte, error) {
	path, err := s.compile(ctx, runtime.GOOS, runtime.GOARCH, work)
	if err != nil {
		return nil, err
	}
	scripts := map[string][]byte{}
	for _, shell := range shells {
		script, err := exec.CommandContext(ctx, path, "completion", shell).Output()
		if err != nil {
			return nil, fmt.Errorf("piko completion %s: %w", shell, err)
		}
		scripts[shell] = script
	}
	return scripts, nil
}
