//go:build e2e

package e2e

import (
	"strings"
	"testing"
)

func TestPageLook(t *testing.T) {
	f := startPageFake(t, 100000)
	b := startBrowser(t)
	host := strings.TrimPrefix(f.URL, "http://")
	for _, v := range []struct{ name, hash, ready string }{
		{"overview", "#/", "document.querySelector('tbody tr')"},
		{"endpoints", "#/endpoints?sort=rps&order=desc", "document.querySelector('.space .row a[href]')"},
		{"endpoint", "#/endpoint/orders-00034", "document.querySelector('.chart path.line[d]')"},
	} {
		for _, s := range []struct {
			name string
			w, h int
			dark bool
		}{{"wide", 1280, 900, false}, {"dark", 1280, 900, true}, {"phone", 360, 740, false}} {
			p := b.open(t, f.URL+"/"+v.hash, s.w, s.h)
			p.dark(t, s.dark)
			p.wait(t, "the page is there", v.ready)
			p.screenshot(t, v.name+"-"+s.name)
			p.clean(t, host)
		}
	}
}
