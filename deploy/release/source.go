package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// source is what is released.
type source struct {
	root    string    // absolute
	version string    // v1.2.3
	commit  string    // empty: unknown, or not exactly that
	time    time.Time // of the commit; the only time that gets into what is made
}

// versions are those that module, deb and rpm can all express.
var versions = regexp.MustCompile(`^v[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z]+(\.[0-9A-Za-z]+)*)?$`)

// findSource asks git about the directory for what was not given. Without a
// repository, dirty, a version and SOURCE_DATE_EPOCH have to be.
func findSource(ctx context.Context, root, version string, dirty bool) (*source, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, err
	}
	s := &source{root: root, version: version}
	if !dirty {
		err = s.findCommit(ctx)
	}
	if s.version == "" && err == nil {
		if s.version, err = s.git(ctx, "describe", "--tags", "--exact-match", "--match", "v*"); err != nil {
			err = fmt.Errorf("the commit has no tag: add one, or say -version (%w)", err)
		}
	}
	if err != nil {
		return nil, err
	}
	if !versions.MatchString(s.version) {
		return nil, fmt.Errorf("version %q: use one such as v1.2.3 or v1.2.3-rc.1", s.version)
	}
	return s, s.findTime(ctx)
}

// findCommit sets the commit, if the tree is nothing else.
func (s *source) findCommit(ctx context.Context) error {
	changes, err := s.git(ctx, "status", "--porcelain")
	if err != nil {
		return fmt.Errorf("find the commit: say -dirty where there is no repository: %w", err)
	}
	if changes != "" {
		return fmt.Errorf("the tree has changes since its commit: commit them, or say -dirty\n%s", changes)
	}
	s.commit, err = s.git(ctx, "rev-parse", "HEAD")
	return err
}

// findTime sets the time: SOURCE_DATE_EPOCH, or that of the commit.
func (s *source) findTime(ctx context.Context) error {
	epoch := os.Getenv("SOURCE_DATE_EPOCH")
	if epoch == "" {
		var err error
		if epoch, err = s.git(ctx, "log", "-1", "--format=%ct"); err != nil {
			return fmt.Errorf("find the time of the commit: set SOURCE_DATE_EPOCH where there is no repository: %w", err)
		}
	}
	seconds, err := strconv.ParseInt(epoch, 10, 64)
	if err != nil || seconds < 0 {
		return fmt.Errorf("SOURCE_DATE_EPOCH: %q are no seconds since 1970", epoch)
	}
	s.time = time.Unix(seconds, 0).UTC()
	return nil
}

// git runs git in the source, even if that belongs to somebody else.
func (s *source) git(ctx context.Context, args ...string) (string, error) {
	args = append([]string{"-c", "safe.directory=" + s.root, "-C", s.root}, args...)
	out, err := exec.CommandContext(ctx, "git", args...).Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		err = fmt.Errorf("git: %s", strings.TrimSpace(string(exit.Stderr)))
	}
	return strings.TrimSpace(string(out)), err
}

// plainVersion is the version as file names have it.
func (s *source) plainVersion() string { return strings.TrimPrefix(s.version, "v") }

// commitName is the commit for people.
func (s *source) commitName() string {
	if s.commit == "" {
		return "unknown"
	}
	return s.commit[:12]
}

// file is the content of a file of the source.
func (s *source) file(name string) ([]byte, error) {
	return os.ReadFile(filepath.Join(s.root, filepath.FromSlash(name)))
}
