//go:build unix

package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestFingerprints(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	rewrite(t, path("one"), "1")
	rewrite(t, path("two"), "2")
	if err := errors.Join(os.Symlink("one", path("link")), os.Symlink("link", path("far")), syscall.Mkfifo(path("pipe"), 0o600)); err != nil {
		t.Fatal(err)
	}
	one := fingerprint(path("far"))
	if one != fingerprint(path("one")) {
		t.Error("a link is not what it leads to")
	}
	if err := errors.Join(os.Symlink("two", path("new")), os.Rename(path("new"), path("link"))); err != nil {
		t.Fatal(err)
	}
	if fingerprint(path("far")) == one {
		t.Error("a link that was replaced goes unseen")
	}
	info, err := os.Stat(path("one"))
	if err != nil {
		t.Fatal(err)
	}
	rewrite(t, path("one"), "3")
	if err := os.Chtimes(path("one"), info.ModTime(), info.ModTime()); err != nil {
		t.Fatal(err)
	}
	if fingerprint(path("one")) == one {
		t.Error("a file of the same size and time goes unseen")
	}
	if got := fingerprint(path("pipe")); got != "" {
		t.Errorf("a pipe is %q; reading it would take for ever", got)
	}
	if got := fingerprint(path("none")); !strings.Contains(got, "no such file") {
		t.Errorf("a file that is not there is %q", got)
	}
}
