// Package relay carries one HTTP/1.1 exchange from a server's handler to a service and back.
//
// It is the half that the node (over streams of a tunnel) and the agent (over TCP or TLS to the service) share, in the
// place of http.Transport and httputil.ReverseProxy. It knows neither endpoints nor tunnels nor retries nor logs: its
// callers decide, with NeverExecuted, Responded, ClientError and ProtocolError to go by.
//
//	handler           Pool.RoundTrip                         service
//	   |  TakeBody        |
//	   |  Attach -------> |  head, joined with what there is of the body, in one write -->
//	   |                  |  the rest of the body: one goroutine, while there is one   -->
//	   |                  |  <-- 1xx (httptrace), head of the response
//	   |  CopyResponse    |  <-- body, read in the handler's goroutine; trailers
//	   |  or Upgrade      |  <-> bytes, with half-close
//	   |  Finish          |  connection kept if both sides of the exchange were whole
//
// HTTP2Pool is the same over HTTP/2, by net/http, for what NeedsHTTP2: a request's body is read by a goroutine of its own
// there, so that a stream is reset at once whoever waits for what.
//
// Lane does without the handler, where the client's connection is a stream of a node and the request a plain one;
// LaneServer has a server beside it for all others.
//
// Goroutines: a Pool has none, an idle connection has none, and an exchange has one only while it sends a body that was
// not all there at once. Whoever calls RoundTrip must read the response to its end or close it; both release all.
package relay
