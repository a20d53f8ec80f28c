// Package suites runs what others wrote to judge implementations of HTTP/2, gRPC, Connect and
// ACME through real piko binaries: the conformance suite of Connect, the interoperability cases
// of gRPC, h2spec, pebble; and calls of gRPC that go on while something happens to those who
// carry them.
// It is a module of its own, so that the program does not depend on any of it.
//
//	go -C e2e/suites test .
//
// It builds the program and the suites, in the versions of its go.mod, and needs Linux.
package suites

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Programs under test, and the suites. Set once by TestMain, then only read.
var (
	pikoBinary        string
	conformanceBinary string
	referenceBinary   string
	h2specBinary      string
	pebbleBinary      string
	pebbleDNSBinary   string
)

// conformanceEnv is how often the conformance suite runs in each variant; once when not set.
const conformanceEnv = "PIKO_SUITES_CONFORMANCE"

// raceEnv, set to 1, makes the program under test be built with the race detector.
const raceEnv = "PIKO_E2E_RACE"

func TestMain(m *testing.M) {
	for env, child := range map[string]func(string) error{wrapperEnv: runWrapper, interopEnv: runInteropCase} {
		if arg := os.Getenv(env); arg != "" {
			if err := child(arg); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			os.Exit(0)
		}
	}
	flag.Parse()
	if !parallelGiven() {
		flag.Set("test.parallel", "16") // most of them wait, whatever the number of processors
	}
	os.Exit(buildAndRun(m))
}

func parallelGiven() (given bool) {
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	return given
}

// buildAndRun builds the programs and runs the tests. PIKO_E2E_BINARY names a piko that is
// already built.
func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "piko-suites-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "make directory for the binaries:", err)
		return 1
	}
	defer os.RemoveAll(dir)
	if err := buildAll(dir); err != nil {
		fmt.Fprintln(os.Stderr, "build:", err)
		return 1
	}
	return m.Run()
}

func buildAll(dir string) error {
	if pikoBinary = os.Getenv("PIKO_E2E_BINARY"); pikoBinary == "" {
		pikoBinary = filepath.Join(dir, "piko")
		args := []string{"build", "-C", "../..", "-o", pikoBinary}
		if os.Getenv(raceEnv) == "1" {
			args = append(args, "-race")
		}
		if err := goCommand(append(args, ".")...); err != nil {
			return err
		}
	}
	conformanceBinary = filepath.Join(dir, "connectconformance")
	referenceBinary = filepath.Join(dir, "referenceserver")
	h2specBinary = filepath.Join(dir, "h2spec")
	pebbleBinary = filepath.Join(dir, "pebble")
	pebbleDNSBinary = filepath.Join(dir, "pebble-challtestsrv")
	// The suite's clients cannot be told a header, and an address names no endpoint. So they get
	// names, from a file of ours that they take for /etc/hosts.
	const ownHosts = "-X net.hostsFilePath=testdata/hosts"
	return goCommand("build", "-o", dir, "-ldflags", ownHosts,
		"connectrpc.com/conformance/cmd/connectconformance",
		"connectrpc.com/conformance/cmd/referenceserver",
		"github.com/summerwind/h2spec/cmd/h2spec",
		"github.com/letsencrypt/pebble/v2/cmd/pebble",
		"github.com/letsencrypt/pebble/v2/cmd/pebble-challtestsrv")
}

func goCommand(args ...string) error {
	cmd := exec.Command("go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if os.Getenv(raceEnv) == "1" {
		cmd.Env = os.Environ()
	}
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	return cmd.Run()
}
