package proxy

import (
	"net/http/httptest"
	"testing"
	"time"

	"piko/auth"
)

// BenchmarkEnter is what each request costs until it is known to be let in: with a token that was seen before, and
// without authentication.
func BenchmarkEnter(b *testing.B) {
	for name, change := range map[string]func(*Options){"open": nil, "token": secured(b, nil), "tenant": tenanted(b, nil)} {
		b.Run(name, func(b *testing.B) {
			w := newWorld(b, change)
			r := httptest.NewRequest("GET", "http://e.acme.test/", nil)
			r.RemoteAddr = "192.0.2.1:4000"
			token := map[string]string{"token": mint(keyAll, good), "tenant": mint(keyAcme, expiresAt(time.Now().Add(time.Hour)))}[name]
			value := []string{"Bearer " + token}
			b.ReportAllocs()
			for b.Loop() {
				r.Header["Authorization"] = value
				x := exchange{f: &w.p.forwarder, r: r}
				if err := x.enter("", false); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkLife is what it costs to end a request with its token.
func BenchmarkLife(b *testing.B) {
	w := newWorld(b, func(o *Options) {
		o.Auth = newGuard(b, auth.Options{Default: auth.Config{HMACSecretKeys: []string{keyAll}}})
	})
	grant, err := w.p.opt.Auth.Verify("", mint(keyAll, expiresAt(time.Now().Add(hour))))
	if err != nil {
		b.Fatal(err)
	}
	x := exchange{f: &w.p.forwarder, bearer: auth.Bearer{Grant: grant}}
	x.call.x = &x
	b.ReportAllocs()
	for b.Loop() {
		x.call.live()
		x.call.outlive()
	}
}
