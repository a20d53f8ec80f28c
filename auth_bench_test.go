package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"
)

// benchKey is the secret of tokens in benchmarks.
const benchKey hmacSecret = "of benchmarks, and at least 32 bytes"

// authTurn is how many requests follow each other to one of the two.
const authTurn = 64 * 50

// BenchmarkProxyAuth is what tokens cost on the proxy port: two whole paths, node and agent, in processes of their own,
// one of which asks for a token with each request, while the other's clients send none. They are asked in turns, since the machine's speed drifts; an
// operation is a turn of both. ratio is the median of their ratios of CPU time.
func BenchmarkProxyAuth(b *testing.B) {
	origin := httptest.NewServer(pathOrigin(13))
	defer origin.Close()
	claims := map[string]any{"sub": "bench", "exp": time.Now().Add(time.Hour).Unix(), "piko": map[string]any{"endpoints": []string{"bench"}}}
	headers := [2]http.Header{{"X-Piko-Endpoint": {"bench"}}, {"X-Piko-Endpoint": {"bench"}, "Authorization": {"Bearer " + mintToken(b, benchKey, claims)}}}
	children := [2]*pathProcess{startPathChild(b, "tunnel", origin.URL), startPathChild(b, "tunnel-auth", origin.URL)}
	transport := &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true}
	defer transport.CloseIdleConnections()
	turn := func(i int) float64 {
		child := children[i]
		before := child.usage(b)
		benchRequests(b, transport, child.url, headers[i], 64, authTurn/64)
		return float64((child.usage(b).CPU - before.CPU).Microseconds()) / authTurn
	}
	turn(0) // warm up
	turn(1)
	var cpu [2][]float64
	var ratios []float64
	for i := 0; b.Loop(); i++ {
		first := i % 2
		var took [2]float64
		took[first] = turn(first)
		took[1-first] = turn(1 - first)
		cpu[0], cpu[1] = append(cpu[0], took[0]), append(cpu[1], took[1])
		ratios = append(ratios, took[1]/took[0])
	}
	b.ReportMetric(median(cpu[0]), "cpu-µs/req-without")
	b.ReportMetric(median(cpu[1]), "cpu-µs/req-with")
	b.ReportMetric(median(ratios), "ratio")
}

func median(list []float64) float64 {
	slices.Sort(list)
	return list[len(list)/2]
}

// benchRequests sends so many requests from each of the clients.
func benchRequests(b *testing.B, transport *http.Transport, url string, header http.Header, clients, each int) {
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			for range each {
				if err := authRequest(transport, url, header); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func authRequest(transport *http.Transport, url string, header http.Header) error {
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	req.Header = header.Clone()
	res, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	n, err := io.Copy(io.Discard, res.Body)
	if err != nil || n != 13 || res.StatusCode != http.StatusOK {
		return fmt.Errorf("request failed: status %d, %d bytes, %v", res.StatusCode, n, err)
	}
	return nil
}
