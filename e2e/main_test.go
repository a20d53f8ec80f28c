//go:build e2e

// Package e2e holds the end-to-end tests: they build the real binary once, start it as
// operators do (flags, signals, environment), and look at it from outside only, through
// curl, git, a browser, redis, psql, ssh, slowhttptest, raw sockets, nginx and haproxy, its exit status, its
// log and /proc.
//
//	go test -tags e2e ./e2e
//
// They need Linux. A test that needs one of these programs is skipped where it is
// missing, and fails instead when the environment has CI=true, so that a green run in CI
// means that everything ran.
//
// Tests that mostly wait call t.Parallel and so run together after the others; tests that
// load the machine or measure short times run one after another before them.
package e2e

import (
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// pikoBinary is the path of the program under test; set once by TestMain, then only read.
var pikoBinary string

// raceEnv, set to 1, makes the program under test be built with the race detector.
const raceEnv = "PIKO_E2E_RACE"

// serveEnv makes the test binary be a service on the given address instead of running tests,
// for a test that has to kill its service.
const serveEnv = "PIKO_E2E_SERVE"

func TestMain(m *testing.M) {
	if addr := os.Getenv(serveEnv); addr != "" {
		fmt.Fprintln(os.Stderr, http.ListenAndServe(addr, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, "a service")
		})))
		os.Exit(1)
	}
	flag.Parse()
	if !parallelGiven() {
		flag.Set("test.parallel", "40") // they wait, whatever the number of processors
	}
	os.Exit(buildAndRun(m))
}

func parallelGiven() (given bool) {
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	return given
}

// testBinary is the path of the running program.
func testBinary(t testing.TB) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatalf("find the test binary: %v", err)
	}
	return path
}

// buildAndRun builds the program and runs the tests. PIKO_E2E_BINARY names a program that is
// already built; raceEnv builds with the race detector.
func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "piko-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "make directory for the binary:", err)
		return 1
	}
	defer os.RemoveAll(dir)

	if pikoBinary = os.Getenv("PIKO_E2E_BINARY"); pikoBinary == "" {
		pikoBinary = filepath.Join(dir, "piko")
		args := []string{"build", "-o", pikoBinary}
		if os.Getenv(raceEnv) == "1" {
			args = append(args, "-race")
		}
		build := exec.Command("go", append(args, "..")...)
		build.Stdout, build.Stderr = os.Stderr, os.Stderr
		if err := build.Run(); err != nil {
			fmt.Fprintln(os.Stderr, "build the binary:", err)
			return 1
		}
	}
	return m.Run()
}

// tool returns the path of a program that a test needs and may be missing on this machine.
func tool(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err == nil {
		return path
	}
	// Debian keeps these where the PATH of an ordinary user does not look.
	if sbin := "/usr/sbin/" + name; fileExists(sbin) {
		return sbin
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s is not installed, and in CI nothing may be skipped", name)
	}
	t.Skipf("%s is not installed", name)
	return ""
}

func fileExists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
