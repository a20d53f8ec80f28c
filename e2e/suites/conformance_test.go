package suites

import (
	"bytes"
	"encoding/json"
	"os"
	"regexp"
	"strconv"
	"testing"
	"time"
)

// conformanceCases is how many there are for testdata/conformance.yaml.
const conformanceCases = 1182

// TestConformanceDirect wants the suite to pass without piko: else it says nothing about it.
func TestConformanceDirect(t *testing.T) { runConformance(t, wrapper{}) }

// TestConformance puts piko before the reference server of the conformance suite: gRPC,
// gRPC-Web and Connect, over HTTP/1.1 and h2c, all kinds of stream.
func TestConformance(t *testing.T) {
	runs, _ := strconv.Atoi(os.Getenv(conformanceEnv))
	for name, newPath := range paths {
		for _, upstream := range []string{upstreamAgent, upstreamSDK} {
			t.Run(name+", "+upstream, func(t *testing.T) {
				p := newPath(t, "--proxy.domain", domain)
				for range max(1, runs) {
					runConformance(t, wrapper{
						Upstream: upstream, URL: "http://" + p.owner.upstream, Owner: p.owner.id,
						Proxy: p.entry.proxy, Admin: p.entry.admin,
					})
				}
			})
		}
	}
}

// runConformance runs the suite in server mode. It starts a wrapper for each server that it
// needs.
func runConformance(t *testing.T, w wrapper) {
	t.Helper()
	w.Piko, w.Reference, w.Names = pikoBinary, referenceBinary, t.TempDir()
	arg, err := json.Marshal(w)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	cmd := command(conformanceBinary, "-v", "--trace", "--mode", "server", "--conf", "testdata/conformance.yaml", "--", self)
	// grpc-go would ask DNS for its configuration, where nobody may be there to answer.
	cmd.Env = append(cmd.Env, wrapperEnv+"="+string(arg), "GRPC_ENABLE_TXT_SERVICE_CONFIG=false")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	kill := time.AfterFunc(5*time.Minute, func() { _ = cmd.Process.Kill() })
	defer kill.Stop()
	err = cmd.Run()
	passed, failed := -1, -1
	if m := regexp.MustCompile(`(\d+) passed, (\d+) failed`).FindSubmatch(out.Bytes()); m != nil {
		passed, _ = strconv.Atoi(string(m[1]))
		failed, _ = strconv.Atoi(string(m[2]))
	}
	t.Logf("%d passed, %d failed, %.1f s", passed, failed, time.Since(began).Seconds())
	if err != nil || passed != conformanceCases || failed != 0 {
		file, b := failures(t, out.Bytes())
		t.Errorf("%v; want %d passed; the whole output is in %s\n%s", err, conformanceCases, file, b)
	}
}

// failures keeps the output of the suite and returns the start of what has failed.
func failures(t *testing.T, out []byte) (file string, start []byte) {
	t.Helper()
	f, err := os.CreateTemp("", "conformance-*.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(out); err != nil {
		t.Fatal(err)
	}
	if i := bytes.Index(out, []byte("FAILED")); i >= 0 {
		return f.Name(), out[i:min(len(out), i+12000)]
	}
	return f.Name(), out[max(0, len(out)-4000):]
}
