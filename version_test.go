package main

import (
	"runtime/debug"
	"testing"
)

func TestVersionOf(t *testing.T) {
	built := &debug.BuildInfo{GoVersion: "go1.26.8", Settings: []debug.BuildSetting{
		{Key: "vcs.revision", Value: "0123456789abcdef"}, {Key: "vcs.modified", Value: "true"}, {Key: "GOOS", Value: "linux"}, {Key: "GOARCH", Value: "amd64"},
	}}
	built.Main.Version = "v1.2.3"
	for _, tt := range []struct {
		info *debug.BuildInfo
		want string
	}{
		{built, "v1.2.3 (commit 0123456789ab with changes, go1.26.8, linux/amd64)"},
		{&debug.BuildInfo{GoVersion: "go1.26.8"}, "(devel) (go1.26.8)"},
		{released(&debug.BuildInfo{GoVersion: "go1.26.8"}, "v1.2.3", "0123456789abcdef"), "v1.2.3 (commit 0123456789ab, go1.26.8)"},
		{released(&debug.BuildInfo{GoVersion: "go1.26.8"}, "", ""), "(devel) (go1.26.8)"},
	} {
		if got := versionOf(tt.info); got != tt.want {
			t.Errorf("got %q, want %q", got, tt.want)
		}
	}
}
