//go:build e2e

package e2e

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// TestPageOfACluster asks the page of one node what goes wrong at another, and drains that:
// two nodes, an endpoint with an agent at each, and behind the second agent no service.
func TestPageOfACluster(t *testing.T) {
	gossip := freeAddr(t)
	n1 := startServer(t, "--cluster.node-id", "n1", "--cluster.gossip.bind-addr", gossip)
	n2 := startServer(t, "--cluster.node-id", "n2", "--cluster.join", gossip)
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "works") }))
	t.Cleanup(service.Close)
	n1.agent(t, "shop", service.Listener.Addr().String())
	broken := n2.agent(t, "shop", freeAddr(t))
	eventually(t, 20*time.Second, "n1 knows what n2 serves", func() error {
		body, err := fetch("http://" + n1.admin + "/status/cluster/nodes/n2")
		if err == nil && !strings.Contains(string(body), `"shop":1`) {
			err = fmt.Errorf("it says %s", body)
		}
		return err
	})
	stop := buy(t, n1, n2)

	b := startBrowser(t)
	p := b.open(t, "http://"+n1.admin+"/", 1280, 800)
	p.wait(t, "n1 shows both nodes with their requests", `document.querySelectorAll('tbody tr').length === 2 && [...document.querySelectorAll('tbody tr')].every(r => r.innerText.includes('active') && parseFloat(r.cells[7].textContent) > 0) && `+pageLive)
	p.screenshot(t, "cluster-overview")

	p.key(t, "/")
	p.write(t, "sho")
	p.wait(t, "the endpoint is found", pageRow+`?.textContent === 'shop' && document.querySelector('.c-nodes:not([role=columnheader])').textContent === 'n1, n2'`)
	p.key(t, "Enter")
	p.wait(t, "the row has the cursor", `document.querySelector('.row.active a')?.textContent === 'shop' && document.activeElement.className === 'list' && document.querySelector('.count').textContent === '1 of 1'`)
	p.key(t, "Enter")
	const row = `[...document.querySelectorAll('tbody tr')].find(r => r.cells[0].textContent === 'n2' && r.cells.length === 10)`
	p.wait(t, "the page tells which tunnel fails, and why", row+`?.cells[8].innerText.includes('upstream-unreachable') && Number(`+row+`.cells[7].textContent) > 0`)
	p.wait(t, "and that it does now", row+`.querySelector('.badge').textContent === 'failing'`)
	p.wait(t, "the other one does not", `[...document.querySelectorAll('tbody tr')].find(r => r.cells[0].textContent === 'n1').cells[7].textContent === '0'`)
	p.wait(t, "the errors are listed with what they mean", `document.querySelector('[aria-label="Recent errors"]').innerText.includes('could not be reached')`)
	p.wait(t, "the charts have requests and errors", `['requests', 'errors'].every(k => document.querySelector('.chart path.line.' + k).getAttribute('d')?.length > 10)`)
	p.screenshot(t, "cluster-endpoint")

	p.click(t, `tbody a[href="#/node/n2"]`)
	p.wait(t, "the link leads to the node's button", `document.activeElement.ariaLabel === 'Drain node n2'`)
	p.key(t, "Enter")
	p.wait(t, "the page asks first", `document.querySelector('dialog[open]')`)
	p.click(t, "dialog .danger")
	p.wait(t, "n2 drains", `!document.querySelector('dialog') && [...document.querySelectorAll('tbody tr')].find(r => r.innerText.startsWith('n2')).querySelector('.badge').textContent === 'draining'`)
	eventually(t, 20*time.Second, "n2 is not ready any more", func() error {
		if _, err := fetch("http://" + n2.admin + "/ready"); err == nil {
			return errNotYet
		}
		return nil
	})
	broken.stop(t, 10*time.Second) // it knows of no other node
	p.wait(t, "the page says that the drain is done", `document.querySelector('main').innerText.includes('it can be stopped')`)
	p.screenshot(t, "cluster-drained")
	p.clean(t, n1.admin)
	stop()
	t.Run("with tokens", func(t *testing.T) { pageOfAClusterWithTokens(t, b) })
}

// pageOfAClusterWithTokens types a token, which has to reach the other node, too.
func pageOfAClusterWithTokens(t *testing.T, b *browser) {
	const key = "a key of thirty-two bytes or more"
	gossip := freeAddr(t)
	args := []string{"--admin.auth.hmac-secret-key", key, "--cluster.secret", "a secret of thirty-two bytes, too"}
	n1 := startServer(t, append(args, "--cluster.node-id", "n1", "--cluster.gossip.bind-addr", gossip)...)
	n2 := startServer(t, append(args, "--cluster.node-id", "n2", "--cluster.join", gossip)...)
	p := b.open(t, "http://"+n1.admin+"/#/node/n2", 1280, 800)
	p.wait(t, "the page asks for a token", `document.activeElement.id === 'token'`)
	p.write(t, signToken(t, key, time.Now().Add(time.Hour)))
	p.key(t, "Enter")
	p.wait(t, "n1 shows both nodes", `document.querySelectorAll('.badge[data-state=active]').length === 2 && document.getElementById('partial').hidden && `+pageLive)
	p.wait(t, "the node's button has the focus", `document.activeElement.ariaLabel === 'Drain node n2'`)
	p.key(t, "Enter")
	p.wait(t, "the page asks first", `document.querySelector('dialog[open]')`)
	p.click(t, "dialog .danger")
	p.wait(t, "n2 drains", `!document.querySelector('dialog') && document.querySelector('tr.target .badge').textContent === 'draining'`)
	n2.stop(t, 20*time.Second)
	p.wait(t, "n2 is gone, or missed", `document.querySelectorAll('.badge[data-state=active]').length === 1 && !document.querySelector('.badge[data-state=draining]')`)
	p.clean(t, n1.admin, "401")
}

// buy sends requests that are not tried again to both nodes, until stop is called.
func buy(t *testing.T, nodes ...*server) (stop func()) {
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		client := &http.Client{Timeout: 10 * time.Second}
		defer client.CloseIdleConnections()
		for i := 0; ; i++ {
			req, _ := http.NewRequest(http.MethodPost, nodes[i%len(nodes)].url("/order"), strings.NewReader("one"))
			req.Header.Set("x-piko-endpoint", "shop")
			if res, err := client.Do(req); err == nil {
				io.Copy(io.Discard, res.Body)
				res.Body.Close()
			}
			select {
			case <-end:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	stop = func() {
		select {
		case <-end:
		default:
			close(end)
		}
		<-ended
	}
	t.Cleanup(stop)
	return stop
}
