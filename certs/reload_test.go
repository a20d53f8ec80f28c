package certs

import (
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"piko/certs/certstest"
)

func TestPrepareChangesNothingBeforeCommit(t *testing.T) {
	ca := certstest.NewCA(t, "ca")
	was, next := files(ca.Issue([]string{"was.test"})), files(ca.Issue([]string{"next.test"}))
	s := newTestServer(t, ServerOptions{Pairs: []Pair{was}})
	served := func() string {
		t.Helper()
		cs, err := shake(t, s.Config(), &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		return cs.PeerCertificates[0].Subject.CommonName
	}
	commit, changed, err := s.Prepare(ServerOptions{Pairs: []Pair{next}})
	if err != nil || !changed.Pairs || changed.Authorities || changed.Version {
		t.Fatalf("changed %+v, %v", changed, err)
	}
	if got := served(); got != "was.test" {
		t.Errorf("before commit: %s", got)
	}
	commit()
	if got := served(); got != "next.test" {
		t.Errorf("after commit: %s", got)
	}
	if changed := mustPrepare(t, s, ServerOptions{Pairs: []Pair{next}}); changed != (Changed{}) {
		t.Errorf("the same again changed %+v", changed)
	}
	if changed := mustPrepare(t, s, ServerOptions{Pairs: []Pair{next}, MinVersion: tls.VersionTLS13}); changed != (Changed{Version: true}) {
		t.Errorf("another version changed %+v", changed)
	}
}

// Whatever is wrong with the new files, the old certificates go on.
func TestHalfWrittenFilesAreRefused(t *testing.T) {
	ca, clients := certstest.NewCA(t, "ca"), certstest.NewCA(t, "clients")
	good, next := ca.Issue([]string{"good.test"}), ca.Issue([]string{"next.test"})
	two := append(append([]byte{}, clients.PEM...), certstest.NewCA(t, "more").PEM...)
	for _, tt := range []struct {
		name           string
		cert, key, cas []byte
		authorities    bool // it is those that are wrong
	}{
		{"certificate is empty", nil, next.Key, clients.PEM, false},
		{"certificate is cut", next.Cert[:len(next.Cert)/2], next.Key, clients.PEM, false},
		{"certificate without its key", next.Cert, good.Key, clients.PEM, false},
		{"key without its certificate", good.Cert, next.Key, clients.PEM, false},
		{"key is cut", next.Cert, next.Key[:len(next.Key)/2], clients.PEM, false},
		{"key is empty", next.Cert, nil, clients.PEM, false},
		{"key in place of the certificate", next.Key, next.Key, clients.PEM, false},
		{"authorities are empty", next.Cert, next.Key, nil, true},
		{"authorities are cut", next.Cert, next.Key, clients.PEM[:len(clients.PEM)/2], true},
		{"second authority is cut", next.Cert, next.Key, two[:len(two)-40], true},
		{"authorities are a key", next.Cert, next.Key, next.Key, true},
		{"authorities are text", next.Cert, next.Key, []byte("hello"), true},
		{"authorities are no certificates", next.Cert, next.Key, []byte("-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n"), true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			pair := files(good)
			cas := clients.File()
			opt := ServerOptions{Pairs: []Pair{pair}, ClientCAs: cas}
			s := newTestServer(t, opt)
			for path, text := range map[string][]byte{pair.Cert: tt.cert, pair.Key: tt.key, cas: tt.cas} {
				if err := os.WriteFile(path, text, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			commit, _, err := s.Prepare(opt)
			if commit != nil || err == nil {
				t.Fatal("the files were taken")
			}
			if IsAuthorities(err) != tt.authorities {
				t.Errorf("is about authorities: %v; %v", !tt.authorities, err)
			}
			if text := err.Error(); !strings.Contains(text, filepath.Dir(pair.Cert)) && !strings.Contains(text, cas) || strings.Contains(text, "PRIVATE") {
				t.Errorf("the error names no file, or shows a key: %v", err)
			}
			if cs, err := shake(t, s.Config(), showing(ca, "good.test", clients.Issue([]string{"agent"}))); err != nil || len(cs.PeerCertificates) == 0 {
				t.Errorf("the old certificate does not serve: %v", err)
			}
		})
	}
}

// Kubernetes has the files of a secret behind two links, of which it replaces
// the second: tls.crt -> ..data/tls.crt, ..data -> ..2026_01_01.
func TestSymbolicLinksThatAreSwapped(t *testing.T) {
	ca := certstest.NewCA(t, "ca")
	dir := t.TempDir()
	versions := 0
	swap := func(p certstest.Pair) {
		t.Helper()
		versions++
		name := fmt.Sprintf("..version-%d", versions)
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
		p.Write(filepath.Join(dir, name, "tls.crt"), filepath.Join(dir, name, "tls.key"))
		err := errors.Join(os.Symlink(name, filepath.Join(dir, "..data_tmp")), os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")))
		if err != nil {
			t.Fatal(err)
		}
	}
	swap(ca.Issue([]string{"one.test"}))
	for _, name := range []string{"tls.crt", "tls.key"} {
		if err := os.Symlink(filepath.Join("..data", name), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	pair := Pair{filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")}
	for _, opt := range []ServerOptions{{Pairs: []Pair{pair}}, {Dir: dir}} {
		s := newTestServer(t, opt)
		if _, err := shake(t, s.Config(), trusting(ca, "one.test")); err != nil {
			t.Fatal(err)
		}
		swap(ca.Issue([]string{"two.test"}))
		if changed := mustPrepare(t, s, opt); !changed.Pairs {
			t.Error("nothing has changed")
		}
		if _, err := shake(t, s.Config(), trusting(ca, "two.test")); err != nil {
			t.Error(err)
		}
		swap(ca.Issue([]string{"one.test"}))
	}
}

func TestClientTakesOverCertificatesAndAuthorities(t *testing.T) {
	ca, nextCA, clients, nextClients := certstest.NewCA(t, "ca"), certstest.NewCA(t, "next"), certstest.NewCA(t, "clients"), certstest.NewCA(t, "next clients")
	server := newTestServer(t, ServerOptions{Pairs: []Pair{files(ca.Issue([]string{"a.test"}))}, ClientCAs: clients.File()})
	nextServer := newTestServer(t, ServerOptions{Pairs: []Pair{files(nextCA.Issue([]string{"b.test"}))}, ClientCAs: nextClients.File()})

	opt := ClientOptions{Pair: files(clients.Issue([]string{"agent"})), RootCAs: ca.File(), ServerName: "a.test"}
	c, err := NewClient(opt)
	if err != nil {
		t.Fatal(err)
	}
	reaches := func(s *Server) bool {
		_, err := shake(t, s.Config(), c.Config())
		return err == nil
	}
	if !reaches(server) || reaches(nextServer) {
		t.Fatal("it does not reach the one and only the one")
	}
	nextClients.Issue([]string{"agent"}).Write(opt.Pair.Cert, opt.Pair.Key)
	certstest.Replace(t, opt.RootCAs, nextCA.PEM)
	next := opt
	next.ServerName = "b.test"
	commit, changed, err := c.Prepare(next)
	if err != nil || !changed.Pairs || !changed.Authorities {
		t.Fatalf("changed %+v, %v", changed, err)
	}
	if !reaches(server) || reaches(nextServer) {
		t.Error("something changed before commit")
	}
	commit()
	if reaches(server) || !reaches(nextServer) {
		t.Error("nothing changed after commit")
	}
	for _, path := range []string{opt.Pair.Cert, opt.Pair.Key, opt.RootCAs} {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		certstest.Replace(t, path, text[:len(text)/2])
		if commit, _, err := c.Prepare(next); commit != nil || IsAuthorities(err) != (path == opt.RootCAs) {
			t.Errorf("half of %s: %v", path, err)
		}
		certstest.Replace(t, path, text)
	}
	if !reaches(nextServer) {
		t.Error("something changed with files that cannot be read")
	}
}

func TestFilesThatAreTooLarge(t *testing.T) {
	path := certstest.WriteFile(t, "zero", make([]byte, maxFile+1))
	if _, err := NewClient(ClientOptions{RootCAs: path}); err == nil || !strings.Contains(err.Error(), "larger than 4 MiB") {
		t.Errorf("got %v", err)
	}
}
