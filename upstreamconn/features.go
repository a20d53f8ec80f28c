package upstreamconn

import (
	"slices"

	"piko/tunnel"
)

// known are the features that we have built, beside control, without which
// there is no other.
var known = []string{tunnel.FeatureMeta, tunnel.FeatureH2, tunnel.FeatureToken}

// subsets are all that can be accepted: of the features in known, those whose
// bits are set in the index, and control before them. The tunnels share them.
var subsets = func() [][]string {
	sets := make([][]string, 1<<len(known))
	for mask := range sets {
		sets[mask] = []string{tunnel.FeatureControl}
		for bit, name := range known {
			if mask&(1<<bit) != 0 {
				sets[mask] = append(sets[mask], name)
			}
		}
	}
	return sets
}()

// accepted is what we have built of what the upstream offers. Nobody sends HTTP
// to an upstream for TCP.
func accepted(hello tunnel.Hello) []string {
	if !slices.Contains(hello.Features, tunnel.FeatureControl) {
		return nil
	}
	mask := 0
	for bit, name := range known {
		if slices.Contains(hello.Features, name) && (name != tunnel.FeatureH2 || hello.Protocol != "tcp") {
			mask |= 1 << bit
		}
	}
	return subsets[mask]
}
