package agent

import "slices"

// Status is how a listener is doing.
type Status struct {
	Endpoint  string
	Protocol  string // http or tcp
	Service   string // its address, as the listener has it
	Connected bool
	Tunnels   int // open ones, without those that are being left
	InFlight  int // requests, upgraded and TCP connections
	Draining  bool
	Failed    bool    // for good: it takes no requests any more
	Health    *Health // nil without a health check
}

// Status returns how the listeners are doing, in the order of the configuration.
// One that has been replaced or removed is not among them.
func (a *Agent) Status() []Status {
	a.mu.Lock()
	listeners := slices.Clone(a.listeners)
	a.mu.Unlock()
	list := make([]Status, 0, len(listeners))
	for _, l := range listeners {
		s := Status{
			Endpoint: l.cfg.Endpoint, Protocol: protocolHTTP, Service: l.service.host,
			Connected: l.connected.Load(), Tunnels: int(l.tunnels.Load()), InFlight: int(l.active.Load()),
			Draining: l.draining.Load(), Failed: l.isGone(),
		}
		if l.cfg.Protocol == protocolTCP {
			s.Protocol = protocolTCP
		}
		if l.check != nil {
			s.Health = new(l.check.health())
		}
		list = append(list, s)
	}
	return list
}
