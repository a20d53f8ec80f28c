package suites

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"encoding/xml"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// goFails are the cases of h2spec that a server of net/http fails without piko.
var goFails = map[string]bool{
	"http2/3.5/2":     true,
	"http2/4.2/3":     true,
	"http2/6.5.3/1":   true,
	"http2/8.1.2.2/1": true,
	"http2/8.1.2.2/2": true,
}

// h2specCases is how many cases h2spec 2.2.1 has.
const h2specCases = 145

// TestH2Spec wants nothing from the proxy port that RFC 7540 and 7541 do not have, with and
// without TLS.
func TestH2Spec(t *testing.T) {
	t.Parallel()
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		io.WriteString(w, "A body that does not fit into a window of one byte.\n")
	}))
	t.Cleanup(service.Close)
	cert, key := writeCertificate(t)
	for name, args := range map[string]struct{ node, h2spec []string }{
		"h2c": {},
		"TLS": {node: []string{"--proxy.tls.cert", cert, "--proxy.tls.key", key}, h2spec: []string{"-t", "-k"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := oneNode(t, args.node...)
			p.agent(t, "c1", service.Listener.Addr().String())
			_, port, _ := net.SplitHostPort(p.entry.proxy)
			wantH2Spec(t, append([]string{"-h", hostOf("c1"), "-p", port}, args.h2spec...))
		})
	}
}

// wantH2Spec runs h2spec. What fails runs once more by itself and with more time, since h2spec
// takes what is late on a busy machine for missing.
func wantH2Spec(t *testing.T, args []string) {
	t.Helper()
	failed, n := h2spec(t, append([]string{"-o", "2"}, args...))
	if n != h2specCases {
		t.Errorf("h2spec ran %d cases, want %d", n, h2specCases)
	}
	for id, why := range failed {
		if goFails[id] {
			continue
		}
		if again, _ := h2spec(t, append([]string{id, "-o", "10"}, args...)); len(again) > 0 {
			t.Errorf("%s: %s", id, why)
		}
	}
}

// h2spec runs the program and returns the cases that failed, by section and number, and how
// many ran.
func h2spec(t *testing.T, args []string) (failed map[string]string, n int) {
	t.Helper()
	report := filepath.Join(t.TempDir(), "report.xml")
	cmd := command(h2specBinary, append([]string{"-j", report}, args...)...)
	kill := time.AfterFunc(5*time.Minute, func() { _ = cmd.Process.Kill() })
	defer kill.Stop()
	out, _ := cmd.CombinedOutput() // its status says whether a case failed
	b, err := os.ReadFile(report)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var suites struct {
		Suite []struct {
			Package string `xml:"package,attr"`
			Case    []struct {
				Class   string  `xml:"classname,attr"`
				Error   *string `xml:"error"`
				Failure *string `xml:"failure"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal(b, &suites); err != nil {
		t.Fatalf("read report: %v", err)
	}
	failed = map[string]string{}
	for _, s := range suites.Suite {
		for i, c := range s.Case {
			for _, why := range []*string{c.Error, c.Failure} {
				if why != nil {
					failed[fmt.Sprintf("%s/%d", s.Package, i+1)] = c.Class + ": " + strings.TrimSpace(*why)
				}
			}
		}
		n += len(s.Case)
	}
	return failed, n
}

// writeCertificate writes a certificate for the domain that nobody has signed.
func writeCertificate(t *testing.T) (cert, key string) {
	t.Helper()
	secret, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"*." + domain},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true, IsCA: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, secret.Public(), secret)
	if err != nil {
		t.Fatal(err)
	}
	secretDER, err := x509.MarshalPKCS8PrivateKey(secret)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for file, block := range map[string]*pem.Block{
		cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: secretDER},
	} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}
