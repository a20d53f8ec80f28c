// Package peer is the connections between the nodes of a cluster: it makes
// them, proves who is at either end, and carries HTTP requests over them. It
// decides nothing about endpoints: who the other nodes are is told by its
// caller, as is what is served to them.
//
//	caller                                              callee, on its proxy port
//	GET /_piko/v1/peer                         ----->
//	  Upgrade: piko-peer
//	  X-Piko-Peer-Caller: <epoch>                       of a node that Options.Lookup knows
//	  X-Piko-Peer-Callee: <epoch>                       this very process
//	  X-Piko-Peer-Proof: tls-1 | tls-2 | mac-1          what this node wants, or 403
//	  X-Piko-Peer-Nonce: <32 bytes, base64>             mac-1 only
//	                                           <-----  101 Switching Protocols
//	tls-1: TLS 1.3; the SHA-256 of each side's certificate is the other's Key
//	tls-2: TLS 1.3 with certificates of the cluster's own authority on both sides,
//	       and inside it mac-1 with what binds it to this TLS connection (RFC 9266)
//	       in place of the caller's nonce
//	mac-1:                                     <-----  nonce (32), MAC of the callee (32)
//	       MAC of the caller (32)              ----->
//	                                           <-----  1: welcome
//	       <=====  a session of package tunnel: HTTP/1.1 on its streams  =====>
//
// A MAC is HMAC-SHA256 under both nodes' keys of purpose, direction, both epochs
// and both nonces, each with its length in front. Keys travel by gossip alone:
// whoever cannot speak there cannot get in here. With mac-1 what follows the
// proof is neither encrypted nor authenticated, as in a cluster without a secret
// nothing is. A refusal is a 403 with X-Piko-Peer-Refused: unknown-caller,
// wrong-node or proof; a node that drains answers 503.
//
// Goroutines: a Link has one, and one more for each of its sessions and while it
// dials; an accepted session has one, and a lane's or an HTTP server's for each
// stream. Run waits for all of them.
package peer
