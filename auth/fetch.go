package auth

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
)

// maxKeySet bounds a key set, in bytes.
const maxKeySet = 1 << 20

var errKeySetSize = errors.New("the key set is larger than 1 MiB")

// fetcher gets a key set by HTTP.
type fetcher struct {
	url    *url.URL
	ttl    time.Duration
	client *http.Client
}

func newFetcher(cfg JWKS, u *url.URL) *fetcher {
	return &fetcher{url: u, ttl: cfg.CacheTTL, client: &http.Client{
		Timeout: cmp.Or(cfg.Timeout, fetchTimeout),
		Transport: &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
			DisableKeepAlives:      true, // the next fetch is minutes away
			MaxResponseHeaderBytes: 64 << 10,
		},
		CheckRedirect: checkRedirect,
	}}
}

// checkRedirect never leaves TLS: what comes without it is anybody's.
func checkRedirect(req *http.Request, via []*http.Request) error {
	switch {
	case len(via) > 3:
		return errors.New("more than 3 redirects")
	case via[0].URL.Scheme == "https" && req.URL.Scheme != "https":
		return errors.New("redirected from https to " + req.URL.Scheme)
	}
	return nil
}

func (f *fetcher) load(ctx context.Context, _ *loaded) (*loaded, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, f.url.String(), nil)
	if err != nil {
		return nil, errors.New("the URL cannot be asked for")
	}
	req.Header.Set("Accept", "application/jwk-set+json, application/json")
	res, err := f.client.Do(req)
	if err != nil {
		if ue, ok := errors.AsType[*url.Error](err); ok {
			err = ue.Err // it would repeat the URL
		}
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the server answers with status %d", res.StatusCode)
	}
	l, err := read(res.Body)
	if err != nil {
		return nil, err
	}
	l.refresh = max(f.ttl, minTTL)
	if f.ttl == 0 {
		l.refresh = min(max(maxAge(res.Header), minRefresh), maxRefresh)
	}
	return l, nil
}

// maxAge is for how long a response says that it is good.
func maxAge(h http.Header) time.Duration {
	for part := range strings.SplitSeq(strings.Join(h.Values("Cache-Control"), ","), ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		if strings.EqualFold(name, "max-age") {
			if n, err := strconv.Atoi(strings.Trim(value, `"`)); err == nil && n >= 0 && n < 1<<30 {
				return time.Duration(n) * time.Second
			}
		}
	}
	return anyRefresh
}

// read reads and parses a key set.
func read(r io.Reader) (*loaded, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxKeySet+1))
	if err != nil {
		return nil, fmt.Errorf("read the key set: %w", err)
	}
	if len(text) > maxKeySet {
		return nil, errKeySetSize
	}
	l := &loaded{sum: sha256.Sum256(text)}
	l.keys, l.skipped, err = parseKeySet(text)
	return l, err
}

// keyFile is the path of a key set.
type keyFile string

// load reads the file if it is another than it was: by its identity too, since
// a symbolic link may lead elsewhere now.
func (path keyFile) load(_ context.Context, was *loaded) (*loaded, error) {
	f, err := os.Open(string(path))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if was != nil {
		if before, ok := was.state.(fs.FileInfo); ok && os.SameFile(before, info) && before.ModTime().Equal(info.ModTime()) && before.Size() == info.Size() {
			return was, nil
		}
	}
	l, err := read(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	l.refresh, l.state = filePoll, info
	return l, nil
}

// isLoopback reports whether a host of a URL is this machine.
func isLoopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback()
}
