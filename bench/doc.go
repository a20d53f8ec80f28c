// Package bench is the load generator behind `piko bench`: it sends requests of
// several kinds through a tunnel, compares every answer with what it must be, and
// says how long they took and what the processes that carried them spent.
//
// A Load says how much is sent: by how many clients at once, one after the other
// (closed loop) or at a constant rate (open loop, where a latency counts from the
// moment at which the request was meant to start, so that a server that stalls
// cannot hide behind a generator that waits for it). A Target is what it is sent
// to: piko, or whatever else carries the same kind of traffic. Compare alternates
// between two targets, since machines change their mood within minutes.
//
// Package main has the flags and prints. Whatever is needed to be the other side,
// echo services and upstreams of the SDK, runs in this process too, so what it
// spends is in the latencies, but not in the processes' CPU.
package bench
