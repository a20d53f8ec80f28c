// Package proxy forwards one request: it is the handler of the proxy port, and of the hops between nodes.
//
//	request
//	  check     what a strict proxy must not pass on is 400, 404 or 405 here
//	  endpoint  from x-piko-endpoint, or the first label of Host
//	  look up   router: nobody is 502
//	  attempt   pick a candidate, RoundTrip; another candidate if that is safe
//	  answer    relay copies the response, or both ways after 101
//	  account   metrics and the access log, whatever happened
//
// A candidate may be another node, which has upstreams for the endpoint. Then the request takes one hop: Public says in
// X-Piko-Route and X-Piko-Attempts what it decided, and Peer, the handler for proven nodes there, or for plain requests a
// lane of package relay with Peer's decisions, forwards to upstreams of its own and to nothing else, or gives the request back with a typed miss (421, X-Piko-Miss), which may be tried anywhere.
// Retries that a service could notice, time-outs, forwarded headers and the access log are the entry node's alone.
//
// It does not know what an upstream is: router hands out something that makes round trips. It opens no port, keeps no
// connection and starts no goroutine that outlives a request. Package main puts an http.Server in front of Public. Every
// error that a client sees is written by package fault.
package proxy
