package suites

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"regexp"
	"strconv"
	"testing"
	"time"
)

// TestConformanceDirect wants the suite to pass without piko: else it says nothing about it.
func TestConformanceDirect(t *testing.T) { runConformance(t, wrapper{}) }

// TestConformance puts piko before the reference server of the conformance suite: gRPC,
// gRPC-Web and Connect, over HTTP/1.1 and h2c, all kinds of stream.
func TestConformance(t *testing.T) {
	for name, newPath := range paths {
		for _, upstream := range []string{upstreamAgent, upstreamSDK} {
			t.Run(name+", "+upstream, func(t *testing.T) {
				p := newPath(t, "--proxy.domain", domain)
				for range conformanceRuns() {
					runConformance(t, p.wrapper(upstream))
				}
			})
		}
	}
}

// TestConformanceTLS does the same with TLS on the proxy port, and to the service if there is
// an agent before it.
func TestConformanceTLS(t *testing.T) {
	for _, upstream := range []string{upstreamAgent, upstreamSDK} {
		t.Run(upstream, func(t *testing.T) {
			cert, key := writeCertificate(t)
			p := acrossTwo(t, "--proxy.domain", domain, "--proxy.tls.cert", cert, "--proxy.tls.key", key)
			for range conformanceRuns() {
				w := p.wrapper(upstream)
				w.Cert = cert
				runConformance(t, w)
			}
		})
	}
}

func conformanceRuns() int {
	n, _ := strconv.Atoi(os.Getenv(conformanceEnv))
	return max(1, n)
}

// wrapper is what makes servers for this path.
func (p *path) wrapper(upstream string) wrapper {
	return wrapper{
		Upstream: upstream, URL: "http://" + p.owner.upstream, Owner: p.owner.id,
		Proxy: p.entry.proxy, Admin: p.entry.admin,
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
	config, want := "testdata/conformance.yaml", 1182
	if w.Cert != "" {
		config, want = "testdata/conformance-tls.yaml", 1002
	}
	began := time.Now()
	cmd := command(conformanceBinary, "-v", "--trace", "--mode", "server", "--conf", config, "--", self)
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
	if bytes.Contains(out.Bytes(), []byte(dataRace)) {
		err = errors.New("an agent has a data race")
	}
	if err != nil || passed != want || failed != 0 {
		file, b := failures(t, out.Bytes())
		t.Errorf("%v; want %d passed; the whole output is in %s\n%s", err, want, file, b)
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
	if i := max(bytes.Index(out, []byte("FAILED")), bytes.Index(out, []byte(dataRace))); i >= 0 {
		return f.Name(), out[i:min(len(out), i+12000)]
	}
	return f.Name(), out[max(0, len(out)-4000):]
}
