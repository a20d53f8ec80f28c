// Package limit keeps a node alive and fair under load: it bounds the requests
// in flight and the rates of endpoints and tenants, and has new requests refused
// while memory is short.
//
// It knows neither HTTP nor tunnels: package proxy asks for each request, and
// package main hands in what there is to know about memory. What one tunnel may
// have in flight is the routing table's affair (router.Local.SetLimit), and the
// bytes that wait for slow readers are bounded where they wait (tunnel.Budget).
package limit
