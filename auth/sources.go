package auth

import "net/netip"

// Sources counts what sources do wrong that is no matter of tokens, as a Guard
// counts their refusals: by IPv4 address or IPv6 network of 64 bits, in bounded
// memory. It is safe for concurrent use.
type Sources struct{ limiter *limiter }

// NewSources returns one for which a source may fail rate times a second, and
// five times as often at once; 0 is 10.
func NewSources(rate float64) *Sources { return &Sources{newLimiter(rate)} }

// Failed counts a failure.
func (s *Sources) Failed(source netip.Addr) { s.limiter.failed(source) }

// Over reports whether a source has failed too often. The zero address never has.
func (s *Sources) Over(source netip.Addr) bool { return s.limiter.isOver(source) }
