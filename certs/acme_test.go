package certs

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"piko/certs/certstest"
)

// issuer stands in for the authority.
type issuer struct {
	ca    *certstest.CA
	mu    sync.Mutex
	asked []string
	err   error
	block chan struct{} // if not nil, answers wait for its end
	begun chan struct{} // if not nil, gets one for each question
}

func (i *issuer) get(name string) (*tls.Certificate, error) {
	i.mu.Lock()
	i.asked = append(i.asked, name)
	err, block := i.err, i.block
	i.mu.Unlock()
	if i.begun != nil {
		i.begun <- struct{}{}
	}
	if block != nil {
		<-block
	}
	if err != nil {
		return nil, err
	}
	cert := i.ca.Issue([]string{name}).TLS()
	return &cert, nil
}

func (i *issuer) count() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return len(i.asked)
}

func (i *issuer) fail(err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.err = err
}

// newTestACME has the domain example.test with the endpoints one to nine.
func newTestACME(t *testing.T, change func(*ACMEOptions)) (*ACME, *issuer) {
	t.Helper()
	opt := ACMEOptions{
		CacheDir: t.TempDir(), Names: []string{"fixed.test"}, Domains: []string{"example.test"}, PerWeek: 40,
		Exists: func(host string) bool { return strings.HasPrefix(host, "endpoint") },
	}
	if change != nil {
		change(&opt)
	}
	a, err := NewACME(opt)
	if err != nil {
		t.Fatal(err)
	}
	i := &issuer{ca: certstest.NewCA(t, "issuer")}
	a.get = i.get
	return a, i
}

func TestCertificatesAreAskedForOnlyWhereTheyAreOurs(t *testing.T) {
	a, i := newTestACME(t, nil)
	fallback := certstest.NewCA(t, "own")
	s := newTestServer(t, ServerOptions{Pairs: []Pair{files(fallback.Issue([]string{"default.test", "own.example.test"}))}, ACME: a})
	for _, tt := range []struct{ name, want string }{
		{"fixed.test", "fixed.test"},
		{"endpoint-1.example.test", "endpoint-1.example.test"},
		{"ENDPOINT-1.example.TEST", "endpoint-1.example.test"},
		{"own.example.test", "default.test"}, // in a file
		{"nobody.example.test", "default.test"},
		{"endpoint-1.other.test", "default.test"},
		{"a.endpoint-1.example.test", "default.test"},
		{"example.test", "default.test"},
		{"sub.fixed.test", "default.test"},
		{"localhost", "default.test"},
		{"", "default.test"},
	} {
		cs, err := shake(t, s.Config(), &tls.Config{InsecureSkipVerify: true, ServerName: tt.name})
		if err != nil {
			t.Fatal(err)
		}
		if got := cs.PeerCertificates[0].Subject.CommonName; got != tt.want {
			t.Errorf("%s: got the certificate of %s, want %s", tt.name, got, tt.want)
		}
	}
	for _, name := range i.asked {
		if name != "fixed.test" && name != "endpoint-1.example.test" {
			t.Errorf("a certificate for %s was asked for", name)
		}
	}
	a.SetDomains([]string{"moved.test"})
	for name, want := range map[string]bool{"endpoint-2.moved.test": true, "endpoint-2.example.test": false, "endpoint-1.example.test": true, "fixed.test": true} {
		if a.MayHave(name) != want {
			t.Errorf("after the domain has changed: %s: %v", name, !want)
		}
	}
	a.SetDomains([]string{"example.test"})
	alone := newTestServer(t, ServerOptions{ACME: a})
	if _, err := shake(t, alone.Config(), &tls.Config{InsecureSkipVerify: true, ServerName: "nobody.example.test"}); err == nil {
		t.Error("a port without any certificate made a handshake")
	}
	if got := len(alone.now.Load().leaves()); got != 2 {
		t.Errorf("%d certificates are watched for their end, want 2", got)
	}
}

// Whoever knows many endpoints cannot have us ask for more than the authority
// issues: then nobody would get any.
func TestNewNamesAreRateBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, i := newTestACME(t, func(o *ACMEOptions) { o.PerWeek = 3 })
		ask := func(n int) (tooMany int) {
			for k := range n {
				_, err := a.start(fmt.Sprintf("endpoint-%d-%d.example.test", time.Now().Unix(), k), time.Now())
				if errors.Is(err, errTooMany) {
					tooMany++
				} else if err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
			}
			return tooMany
		}
		if got := ask(7); got != 4 || i.count() != 3 {
			t.Errorf("%d of 7 refused, %d asked for; want 4, 3", got, i.count())
		}
		time.Sleep(7 * 24 * time.Hour / 3)
		if got := ask(3); got != 2 {
			t.Errorf("%d of 3 refused a third of a week later, want 2", got)
		}
		if _, err := a.start("fixed.test", time.Now()); err != nil {
			t.Errorf("a configured name: %v", err)
		}
		// What was had before costs nothing: a restart must not stop the port.
		if err := os.WriteFile(filepath.Join(a.opt.CacheDir, "endpoint-x.example.test"), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := a.start("endpoint-x.example.test", time.Now()); err != nil {
			t.Errorf("a name in the cache: %v", err)
		}
		synctest.Wait()
	})
}

func TestFailedOrdersPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, i := newTestACME(t, nil)
		i.fail(errors.New("refused by the authority"))
		const name = "endpoint-1.example.test"
		for range 24 * 60 { // a client each minute for a day
			if done, err := a.start(name, time.Now()); err == nil {
				<-done
			}
			time.Sleep(time.Minute)
		}
		if n := i.count(); n < 8 || n > 14 {
			t.Errorf("%d attempts in a day", n)
		}
		i.fail(nil)
		time.Sleep(maxRetry)
		done, err := a.start(name, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		<-done
		if before := i.count(); a.names[name].leaf == nil || before == 0 {
			t.Error("no certificate came in the end")
		}
	})
}

func TestOneOrderServesAllHandshakesOfAName(t *testing.T) {
	a, i := newTestACME(t, nil)
	i.block, i.begun = make(chan struct{}), make(chan struct{}, 20)
	s := newTestServer(t, ServerOptions{ACME: a})
	var clients sync.WaitGroup
	var served atomic.Int32
	for range 10 {
		clients.Go(func() {
			cs, err := shake(t, s.Config(), &tls.Config{InsecureSkipVerify: true, ServerName: "endpoint-1.example.test"})
			if err == nil && cs.PeerCertificates[0].Subject.CommonName == "endpoint-1.example.test" {
				served.Add(1)
			} else {
				t.Errorf("got %v", err)
			}
		})
	}
	<-i.begun
	close(i.block)
	clients.Wait()
	if served.Load() != 10 {
		t.Errorf("%d of 10 served", served.Load())
	}
}

func TestAnOrderUnderWayIsJoined(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, i := newTestACME(t, nil)
		i.block = make(chan struct{})
		var first <-chan struct{}
		for range 3 {
			done, err := a.start("endpoint-1.example.test", time.Now())
			if err != nil {
				t.Fatal(err)
			}
			if first == nil {
				first = done
			}
			synctest.Wait()
			if done != first || i.count() != 1 {
				t.Errorf("%d orders for one name", i.count())
			}
		}
		close(i.block)
		<-first
	})
}

func TestOrdersAtATimeAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, i := newTestACME(t, nil)
		i.block = make(chan struct{})
		for k := range maxOrders + 3 {
			_, err := a.start(fmt.Sprintf("endpoint-%d.example.test", k), time.Now())
			if (err != nil) != (k >= maxOrders) {
				t.Errorf("order %d: %v", k, err)
			}
		}
		close(i.block)
		synctest.Wait()
		if _, err := a.start("endpoint-99.example.test", time.Now()); err != nil {
			t.Errorf("after the others: %v", err)
		}
		synctest.Wait()
	})
}

func TestConfiguredNamesAreAskedForAtOnceAndAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, i := newTestACME(t, nil)
		i.fail(errors.New("refused by the authority"))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- a.Run(ctx) }()
		synctest.Wait()
		if i.count() != 1 {
			t.Fatalf("%d orders at the start", i.count())
		}
		i.fail(nil)
		time.Sleep(2*minRetry + time.Second)
		synctest.Wait()
		if i.count() != 2 || len(a.leaves()) != 1 {
			t.Errorf("%d orders, %d certificates", i.count(), len(a.leaves()))
		}
		time.Sleep(time.Hour)
		if i.count() != 2 {
			t.Errorf("%d orders, though the certificate is there", i.count())
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// The authority shows no certificate, so the handshake of its challenge asks for
// none: nothing else may be had with it.
func TestChallengesGetTheirOwnCertificateAndNoOther(t *testing.T) {
	a, _ := newTestACME(t, nil)
	clients := certstest.NewCA(t, "clients")
	own := certstest.NewCA(t, "own")
	s := newTestServer(t, ServerOptions{
		Pairs: []Pair{files(own.Issue([]string{"default.test"}))}, ACME: a, ClientCAs: clients.File(), NextProtos: []string{"h2", "http/1.1"},
	})
	challenge := func(name string, protocols ...string) error {
		_, err := shake(t, s.Config(), &tls.Config{InsecureSkipVerify: true, ServerName: name, NextProtos: protocols})
		return err
	}
	if err := challenge("fixed.test", "acme-tls/1"); err == nil {
		t.Error("a challenge that nobody waits for was answered")
	}
	// What autocert keeps of a challenge under way.
	pair := own.Issue([]string{"fixed.test"})
	key := pair.TLS().PrivateKey
	writeCached(t, a.opt.CacheDir, "fixed.test+token", key, pair.Cert)
	if err := challenge("fixed.test", "acme-tls/1"); err != nil {
		t.Errorf("a challenge that is waited for: %v", err)
	}
	if err := challenge("default.test", "acme-tls/1"); err == nil {
		t.Error("a challenge for another name was answered")
	}
	for _, protocols := range [][]string{{"acme-tls/1", "http/1.1"}, {"http/1.1", "acme-tls/1"}, nil} {
		if config, _ := s.configFor(&tls.ClientHelloInfo{SupportedProtos: protocols}); config.ClientAuth != tls.RequireAndVerifyClientCert {
			t.Errorf("with the protocols %q a client needs no certificate", protocols)
		}
		if err := challenge("fixed.test", protocols...); err == nil {
			t.Errorf("a client without a certificate got in with the protocols %q", protocols)
		}
	}
}

func TestChallengesOverHTTP(t *testing.T) {
	a, _ := newTestACME(t, nil)
	next := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusTeapot) })
	if err := os.WriteFile(filepath.Join(a.opt.CacheDir, "abc+http-01"), []byte("abc.thumb"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(a.opt.CacheDir, "acme_account+key"), []byte("SECRET"), 0o600); err != nil {
		t.Fatal(err)
	}
	h := a.Handler(next)
	for _, tt := range []struct {
		host, path string
		status     int
		body       string
	}{
		{"fixed.test", "/.well-known/acme-challenge/abc", 200, "abc.thumb"},
		{"endpoint-1.example.test", "/.well-known/acme-challenge/abc", 200, "abc.thumb"},
		{"fixed.test:80", "/.well-known/acme-challenge/abc", 200, "abc.thumb"},
		{"other.test", "/.well-known/acme-challenge/abc", http.StatusTeapot, ""},
		{"fixed.test", "/.well-known/acme-challenge/none", http.StatusTeapot, ""},
		{"fixed.test", "/.well-known/acme-challenge/acme_account+key", http.StatusTeapot, ""},
		{"fixed.test", "/.well-known/acme-challenge/../acme_account%2bkey", http.StatusTeapot, ""},
		{"fixed.test", "/.well-known/acme-challenge/", http.StatusTeapot, ""},
		{"fixed.test", "/", http.StatusTeapot, ""},
	} {
		rec := httptest.NewRecorder()
		r := httptest.NewRequest(http.MethodGet, "http://"+tt.host+tt.path, nil)
		h.ServeHTTP(rec, r)
		body, _ := io.ReadAll(rec.Body)
		if rec.Code != tt.status || string(body) != tt.body {
			t.Errorf("%s%s: got %d %q, want %d %q", tt.host, tt.path, rec.Code, body, tt.status, tt.body)
		}
	}
}

func TestCacheThatCannotBeWritten(t *testing.T) {
	file := certstest.WriteFile(t, "file", nil)
	a, _ := newTestACME(t, func(o *ACMEOptions) { o.CacheDir = filepath.Join(file, "below") })
	if err := a.CheckCache(); err == nil {
		t.Error("a directory below a file is fine")
	}
	dir := filepath.Join(t.TempDir(), "new", "deep")
	a, _ = newTestACME(t, func(o *ACMEOptions) { o.CacheDir = dir })
	if err := a.CheckCache(); err != nil {
		t.Error(err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the directory is %v, %v; others could read keys", info.Mode(), err)
	}
}
