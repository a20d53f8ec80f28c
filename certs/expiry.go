package certs

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"iter"
	"log/slog"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Expiry says when certificates expire: by a metric, and in the log while it is
// time to do something. It is a prometheus.Collector; Run is for the log.
type Expiry struct {
	// Static.
	sources []expirySource
	more    []iter.Seq2[string, *Client]
	log     *slog.Logger
	desc    *prometheus.Desc

	// Owned by Run.
	told map[certID]int // the last of stages that was logged
}

// expirySource is where certificates are in use.
type expirySource struct {
	name   string
	leaves func() []*x509.Certificate
}

type certID [sha256.Size]byte

// expiryPoll is how often the log's part looks at the clock.
const expiryPoll = time.Hour

// stages are how long before the end something is logged, and what.
var stages = []struct {
	before time.Duration
	level  slog.Level
	text   string
}{
	{14 * 24 * time.Hour, slog.LevelWarn, "certificate expires in less than 14 days"},
	{24 * time.Hour, slog.LevelWarn, "certificate expires in less than a day"},
	{0, slog.LevelError, "certificate has expired"},
}

// NewExpiry returns one without certificates: see Add.
func NewExpiry(log *slog.Logger) *Expiry {
	return &Expiry{
		log:  cmp.Or(log, slog.New(slog.DiscardHandler)),
		told: make(map[certID]int),
		desc: prometheus.NewDesc("piko_tls_certificate_expiry_timestamp_seconds",
			"When a certificate in use expires, by where it is used and its first name.", []string{"used_by", "name"}, nil),
	}
}

// AddServer watches what a port shows; nil is nothing. Call it before Run and
// before metrics are gathered.
func (e *Expiry) AddServer(name string, s *Server) {
	if s != nil {
		e.sources = append(e.sources, expirySource{name, func() []*x509.Certificate { return s.now.Load().leaves() }})
	}
}

// AddClient is AddServer for what a dialler shows.
func (e *Expiry) AddClient(name string, c *Client) {
	if c != nil {
		e.sources = append(e.sources, expirySource{name, func() []*x509.Certificate { return c.now.Load().leaves() }})
	}
}

// AddClients is AddClient for diallers that come and go: whenever it matters, by
// any goroutine, they are asked which there are.
func (e *Expiry) AddClients(all iter.Seq2[string, *Client]) { e.more = append(e.more, all) }

// all are the sources that there are now.
func (e *Expiry) all() iter.Seq[expirySource] {
	return func(yield func(expirySource) bool) {
		for _, source := range e.sources {
			if !yield(source) {
				return
			}
		}
		for _, clients := range e.more {
			for name, c := range clients {
				if c != nil && !yield(expirySource{name, func() []*x509.Certificate { return c.now.Load().leaves() }}) {
					return
				}
			}
		}
	}
}

func (s *serverState) leaves() []*x509.Certificate {
	list := make([]*x509.Certificate, len(s.all))
	for i, cert := range s.all {
		list[i] = cert.Leaf
	}
	if s.opt.ACME != nil {
		list = append(list, s.opt.ACME.leaves()...)
	}
	return list
}

func (s *clientState) leaves() []*x509.Certificate {
	var list []*x509.Certificate
	for _, cert := range s.config.Certificates {
		list = append(list, cert.Leaf)
	}
	return list
}

// Run logs what expires, until ctx ends; then it returns nil.
func (e *Expiry) Run(ctx context.Context) error {
	t := time.NewTicker(expiryPoll)
	defer t.Stop()
	for {
		e.tell(time.Now())
		select {
		case <-t.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// tell logs each stage of each certificate once.
func (e *Expiry) tell(now time.Time) {
	told := make(map[certID]int)
	for source := range e.all() {
		for _, leaf := range source.leaves() {
			stage := stageOf(leaf.NotAfter.Sub(now))
			id := certID(sha256.Sum256(append([]byte(source.name), leaf.Raw...)))
			if stage > max(e.told[id], told[id]) {
				s := stages[stage-1]
				e.log.Log(context.Background(), s.level, s.text,
					"used_by", source.name, "name", nameOf(leaf), "expires", leaf.NotAfter.UTC().Format(time.RFC3339))
			}
			told[id] = stage
		}
	}
	e.told = told // those that were replaced are forgotten
}

// stageOf is how many of stages have been reached.
func stageOf(left time.Duration) (n int) {
	for _, s := range stages {
		if left <= s.before {
			n++
		}
	}
	return n
}

// nameOf is what to call a certificate: its first name.
func nameOf(leaf *x509.Certificate) string {
	name := leaf.Subject.CommonName
	switch {
	case len(leaf.DNSNames) > 0:
		name = leaf.DNSNames[0]
	case len(leaf.IPAddresses) > 0:
		name = leaf.IPAddresses[0].String()
	}
	return strings.ToValidUTF8(name[:min(len(name), 253)], "?")
}

// Describe implements prometheus.Collector.
func (e *Expiry) Describe(ch chan<- *prometheus.Desc) { ch <- e.desc }

// Collect implements prometheus.Collector. Of certificates with the same name
// it is the first to expire that counts.
func (e *Expiry) Collect(ch chan<- prometheus.Metric) {
	for source := range e.all() {
		first := make(map[string]time.Time)
		for _, leaf := range source.leaves() {
			name := nameOf(leaf)
			if at, ok := first[name]; !ok || leaf.NotAfter.Before(at) {
				first[name] = leaf.NotAfter
			}
		}
		for name, at := range first {
			ch <- prometheus.MustNewConstMetric(e.desc, prometheus.GaugeValue, float64(at.Unix()), source.name, name)
		}
	}
}
