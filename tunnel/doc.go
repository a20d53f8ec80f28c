// Package tunnel is the wire between an upstream and a node, both ends of it:
// a WebSocket that carries bytes, a yamux session on those bytes, and the
// control stream on that session. It routes nothing, retries nothing and
// reconnects nothing: a node's accepting side calls Accept, an upstream calls
// Dialer.Dial, and both get a Session whose end they are told.
//
//	upstream                                            node
//	GET {prefix}/piko/v1/upstream/{endpoint}  ----->           RFC 6455, version 13
//	  Authorization: Bearer ...  x-piko-tenant-id: ...
//	  x-piko-features: control, meta   x-piko-instance: ...
//	  x-piko-protocol: http      x-piko-nodes: nodes it has tunnels at
//	                            <-----  101 Switching Protocols
//	                                      x-piko-features: control, meta
//	                                      x-piko-node-id: ...  x-piko-cluster-size: 3
//	                            <=====  binary messages  =====>
//
// Carrier. The messages are one byte stream each way: where a message ends
// means nothing, an empty one is nothing, a fragmented one is the sum of its
// fragments. Either side pings and is answered; a text message is an error.
//
// Mux. yamux as hashicorp/yamux speaks it, so that v0.9.0 peers are peers. The
// upstream is yamux' client, the node its server. The node opens the streams
// (even ids), one for each connection it wants to the upstream's service. A
// frame's header and body travel in one message. A reset by a window update says
// 1 in its length where the sender has too many unread bytes in its memory, which
// yamux ignores.
//
// Control. Negotiated by x-piko-features, so that v0.9.0 never sees it: the
// upstream opens stream 1 and no other, and each side writes JSON objects on
// it, one a line, of which the other ignores what it does not know: drain,
// drained, cluster, weight, and with the feature token also token, by which an
// upstream gives the node a fresh one before that of its handshake expires.
//
// Meta. Negotiated likewise: each stream of the node's begins with a few bytes
// about the client for whom it is, which Accept has read before it returns the
// stream.
//
// TCP. A client's connection to an endpoint is a WebSocket of its own, without a
// mux: DialTCP at the client, AcceptTCP at a node, a Conn at both.
//
//	GET {prefix}/_piko/v1/tcp/{endpoint}      ----->
//	  x-piko-features: half-close
//	                            <-----  101 Switching Protocols
//	                                      x-piko-features: half-close
//	                            <=====  binary messages  =====>
//	text message "eof"          ----->           one side has ended
//	                            <-----  text message "eof"
//	close frame 1000            <---->           both have; or 1011: a failure
//
// Life. Any received byte is life. After 10 s without one a side sends a
// WebSocket ping; 5 s later without one the session is dead, unless the ping
// may still wait in a queue that the peer's system is taking. Between two nodes,
// whose session NewPeerSession starts, it is 1 s and 1 s. "Closed by us",
// "closed by the peer" and "dead" are three errors; only the first is final.
//
// A refusal is an HTTP answer other than 101, as JSON; see package fault. A node
// that is among x-piko-nodes refuses with 409, before it has registered anything.
package tunnel
