package certs

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"
)

// LetsEncrypt is the default of ACMEOptions.DirectoryURL.
const LetsEncrypt = acme.LetsEncryptURL

// ACMEOptions say which certificates to get, and of whom: RFC 8555.
type ACMEOptions struct {
	// DirectoryURL is the authority's; "" means LetsEncrypt.
	DirectoryURL string
	// Email is told to the authority; it may be empty.
	Email string
	// RootCAs is a file with the authorities of DirectoryURL's own certificate,
	// in place of the system's.
	RootCAs string
	// CacheDir keeps keys and certificates. Nodes that share it share those, and
	// answer each other's challenges.
	CacheDir string
	// Names get certificates at once.
	Names []string
	// Domains are those whose direct subdomains get a certificate when the first
	// client comes, if Exists says so.
	Domains []string
	// Exists says whether there is something behind a subdomain. It must be fast.
	Exists func(host string) bool
	// PerWeek bounds the certificates for subdomains that are asked for.
	PerWeek int
	// Logger gets what is asked for; nil discards.
	Logger *slog.Logger
}

const (
	// helloWait is how long a handshake waits for the first certificate of its
	// name. Getting it goes on without it.
	helloWait = 8 * time.Second

	// maxOrders bounds the names that are asked for at a time.
	maxOrders = 8

	// Pauses between attempts for one name, which double.
	minRetry = time.Minute
	maxRetry = 6 * time.Hour
)

// Why there is no certificate of ACME for a name.
var (
	errNotOurs = errors.New("no certificate is to be had for this name")
	errTooMany = errors.New("too many certificates for new names were asked for")
	errPausing = errors.New("asking for this certificate has failed a moment ago")
	errNotYet  = errors.New("the certificate is being asked for")
)

// ACME gets certificates from an authority and renews them. It answers the
// challenges TLS-ALPN-01 in the handshakes of a Server and, if Handler is
// served, HTTP-01 (RFC 8737, RFC 8555 section 8.3). Neither can have a
// certificate for a wildcard. Safe for concurrent use.
type ACME struct {
	// Static after construction.
	opt     ACMEOptions
	log     *slog.Logger
	manager *autocert.Manager
	get     func(name string) (*tls.Certificate, error) // blocks; tests have their own
	slots   chan struct{}

	domains atomic.Pointer[[]string] // of Domains or SetDomains; never nil

	// Guarded by mu.
	mu     sync.Mutex
	closed bool
	names  map[string]*acmeName // that were asked for; bounded by Names and PerWeek
	bucket bucket
}

// acmeName is how far a name is. Guarded by ACME.mu.
type acmeName struct {
	leaf    *x509.Certificate // the last that was shown; nil: there was none
	pending chan struct{}     // closed when the attempt under way is over; nil: none is
	err     error             // of the last attempt
	failed  int               // attempts in a row
	next    time.Time         // no attempt before
}

// NewACME makes no connection: see Run.
func NewACME(opt ACMEOptions) (*ACME, error) {
	client := &acme.Client{DirectoryURL: cmp.Or(opt.DirectoryURL, LetsEncrypt), UserAgent: "piko"}
	if opt.RootCAs != "" {
		pool, _, err := loadPool(opt.RootCAs)
		if err != nil {
			return nil, err
		}
		transport := http.DefaultTransport.(*http.Transport).Clone()
		transport.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
		client.HTTPClient = &http.Client{Transport: transport, Timeout: time.Minute}
	}
	a := &ACME{
		opt: opt, log: cmp.Or(opt.Logger, slog.New(slog.DiscardHandler)),
		slots: make(chan struct{}, maxOrders), names: make(map[string]*acmeName),
		bucket: newBucket(opt.PerWeek, 7*24*time.Hour),
	}
	a.manager = &autocert.Manager{
		Prompt: autocert.AcceptTOS, Cache: autocert.DirCache(opt.CacheDir), Email: opt.Email, Client: client,
		HostPolicy: func(_ context.Context, host string) error {
			if !a.mayHave(host) {
				return errNotOurs
			}
			return nil
		},
	}
	a.get = a.order
	a.SetDomains(opt.Domains)
	return a, nil
}

// SetDomains replaces Domains.
func (a *ACME) SetDomains(domains []string) { a.domains.Store(&domains) }

// CheckCache makes the directory, and says what is wrong with it.
func (a *ACME) CheckCache() error {
	if err := os.MkdirAll(a.opt.CacheDir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(a.opt.CacheDir, "check")
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

// Run gets the certificates of Names, until ctx ends, and tries again what
// failed; those that are there renew themselves. An order that is under way then
// cannot be ended: its goroutine ends by itself within 5 minutes.
func (a *ACME) Run(ctx context.Context) error {
	t := time.NewTicker(minRetry)
	defer t.Stop()
	for {
		for _, name := range a.opt.Names {
			if _, err := a.start(name, time.Now()); err != nil && !errors.Is(err, errPausing) && !errors.Is(err, errNotYet) {
				a.log.Warn("certificate not asked for", "name", name, "error", err)
			}
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			a.mu.Lock()
			a.closed = true
			a.mu.Unlock()
			return nil
		}
	}
}

// order is what autocert does, for a key of ECDSA, whatever the client could do:
// otherwise clients would decide how many certificates a name gets.
func (a *ACME) order(name string) (*tls.Certificate, error) {
	return a.manager.GetCertificate(&tls.ClientHelloInfo{
		ServerName:       name,
		CipherSuites:     []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256},
		SignatureSchemes: []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256},
		SupportedCurves:  []tls.CurveID{tls.CurveP256},
	})
}

// mayHave says whether a certificate for the host is ours to ask for.
func (a *ACME) mayHave(host string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if slices.Contains(a.opt.Names, host) {
		return true
	}
	a.mu.Lock()
	known := a.names[host] != nil
	a.mu.Unlock()
	return known || a.isEndpoint(host)
}

// isEndpoint says whether the host is a direct subdomain with something behind.
func (a *ACME) isEndpoint(host string) bool {
	_, domain, ok := strings.Cut(host, ".")
	return ok && slices.Contains(*a.domains.Load(), domain) && a.opt.Exists != nil && a.opt.Exists(host)
}

// certificate is that for the name of a handshake, which waits a while for it.
func (a *ACME) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	name := strings.ToLower(strings.TrimSuffix(hello.ServerName, "."))
	if name == "" {
		return nil, errNotOurs
	}
	a.mu.Lock()
	ready := a.names[name] != nil && a.names[name].leaf != nil
	a.mu.Unlock()
	if ready {
		return a.shown(name)
	}
	done, err := a.start(name, time.Now())
	if err != nil {
		return nil, err
	}
	t := time.NewTimer(helloWait)
	defer t.Stop()
	select {
	case <-done:
	case <-t.C:
		return nil, errNotYet
	case <-hello.Context().Done():
		return nil, hello.Context().Err()
	}
	a.mu.Lock()
	err = a.names[name].err
	a.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return a.shown(name)
}

// shown is a certificate that is there: the manager has it in memory, renewed
// or not.
func (a *ACME) shown(name string) (*tls.Certificate, error) {
	cert, err := a.get(name)
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.names[name].leaf = cert.Leaf
	return cert, nil
}

// start begins an attempt for a name, unless one is under way or has been
// successful; done is closed when it is over.
func (a *ACME) start(name string, now time.Time) (done <-chan struct{}, err error) {
	cached := a.isCached(name)
	exists := a.isEndpoint(name)
	a.mu.Lock()
	defer a.mu.Unlock()
	n := a.names[name]
	fixed := slices.Contains(a.opt.Names, name)
	switch {
	case a.closed:
		return nil, errNotYet
	case n != nil && n.pending != nil:
		return n.pending, nil
	case n != nil && n.leaf != nil:
		return closed, nil
	case n != nil && now.Before(n.next):
		return nil, fmt.Errorf("%w: %w", errPausing, n.err)
	case n == nil && !fixed && !cached && !exists:
		return nil, errNotOurs
	}
	select {
	case a.slots <- struct{}{}:
	default:
		return nil, errNotYet
	}
	if n == nil {
		if !fixed && !cached && !a.bucket.take(now) {
			<-a.slots
			return nil, errTooMany
		}
		n = &acmeName{}
		a.names[name] = n
	}
	n.pending = make(chan struct{})
	go a.attempt(name, n, cached)
	return n.pending, nil
}

// closed is the pending of what is over.
var closed = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

// attempt asks for a certificate once. Nobody waits for it: see Run.
func (a *ACME) attempt(name string, n *acmeName, cached bool) {
	defer func() { <-a.slots }()
	began := time.Now()
	cert, err := a.get(name)
	a.mu.Lock()
	n.err = err
	if err == nil {
		n.leaf, n.failed = cert.Leaf, 0
	} else {
		n.next = time.Now().Add(min(minRetry<<n.failed, maxRetry))
		n.failed = min(n.failed+1, 10)
	}
	next := n.next
	close(n.pending)
	n.pending = nil
	a.mu.Unlock()
	switch {
	case err != nil:
		a.log.Warn("certificate refused", "name", name, "error", err, "next", next.UTC().Format(time.RFC3339), "took", time.Since(began))
	case !cached:
		a.log.Info("certificate issued", "name", name, "expires", cert.Leaf.NotAfter.UTC().Format(time.RFC3339), "took", time.Since(began))
	}
}

// isCached says whether a certificate for the name was had before: by this
// process, an earlier one or another node.
func (a *ACME) isCached(name string) bool {
	_, domain, ok := strings.Cut(name, ".")
	if !slices.Contains(a.opt.Names, name) && (!ok || !slices.Contains(*a.domains.Load(), domain)) {
		return false // nothing that a stranger makes up becomes the name of a file
	}
	_, err := a.manager.Cache.Get(context.Background(), name)
	return err == nil
}

// leaves are the certificates that were shown.
func (a *ACME) leaves() []*x509.Certificate {
	a.mu.Lock()
	defer a.mu.Unlock()
	var list []*x509.Certificate
	for _, n := range a.names {
		if n.leaf != nil {
			list = append(list, n.leaf)
		}
	}
	return list
}

// Handler answers challenges of HTTP-01; whatever is none, or not ours, is for
// next. It has to be called before Run, which then knows that it is served.
func (a *ACME) Handler(next http.Handler) http.Handler {
	answer := a.manager.HTTPHandler(next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		found := &tokenAnswer{header: make(http.Header)}
		if strings.HasPrefix(r.URL.Path, challengePath) {
			named := r.WithContext(r.Context()) // a copy, for the host without a port
			if host, _, err := net.SplitHostPort(r.Host); err == nil {
				named.Host = host
			}
			answer.ServeHTTP(found, named)
		}
		if !found.ok() {
			next.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = w.Write(found.body)
	})
}

// challengePath is where the authority asks: RFC 8555, section 8.3.
const challengePath = "/.well-known/acme-challenge/"

// tokenAnswer is what autocert says to a challenge.
type tokenAnswer struct {
	header http.Header
	status int
	body   []byte
}

func (t *tokenAnswer) Header() http.Header    { return t.header }
func (t *tokenAnswer) WriteHeader(status int) { t.status = status }

func (t *tokenAnswer) Write(p []byte) (int, error) {
	t.body = append(t.body, p...)
	return len(p), nil
}

func (t *tokenAnswer) ok() bool {
	return len(t.body) > 0 && (t.status == 0 || t.status == http.StatusOK)
}

// MayHave says whether a certificate for the host is ours to ask for.
func (a *ACME) MayHave(host string) bool { return a.mayHave(host) }

// isChallenge says whether a handshake is the authority's: RFC 8737, section 3.
func isChallenge(hello *tls.ClientHelloInfo) bool {
	return len(hello.SupportedProtos) == 1 && hello.SupportedProtos[0] == acme.ALPNProto
}

// challenge is the configuration of such a handshake. Nobody has to show a
// certificate, since the authority has none: nothing may follow it, so whoever
// accepts connections closes those that agree on this protocol.
func (a *ACME) challenge() *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS12,
		NextProtos:             []string{acme.ALPNProto},
		GetCertificate:         a.manager.GetCertificate,
		SessionTicketsDisabled: true,
	}
}

// bucket lets n through at once and n in every period. The zero value lets
// nothing through.
type bucket struct {
	size, left float64
	every      time.Duration // of one
	at         time.Time
}

func newBucket(n int, period time.Duration) bucket {
	if n <= 0 {
		return bucket{}
	}
	return bucket{size: float64(n), left: float64(n), every: period / time.Duration(n)}
}

func (b *bucket) take(now time.Time) bool {
	if b.every == 0 {
		return false
	}
	if !b.at.IsZero() {
		b.left = min(b.size, b.left+float64(now.Sub(b.at))/float64(b.every))
	}
	b.at = now
	if b.left < 1 {
		return false
	}
	b.left--
	return true
}
