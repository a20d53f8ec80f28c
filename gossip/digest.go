package gossip

// digest is a set of entries in 64 bits: equal sets have equal ones, and others
// almost never. It finds mistakes, not attacks.
type digest uint64

// toggle puts the entry into the set, or takes it out.
func (d *digest) toggle(e entry) { *d ^= hashOf(e) }

// hashOf is FNV-1a and the last step of splitmix64, for XOR wants all bits mixed.
func hashOf(e entry) digest {
	h := uint64(14695981039346656037)
	for i := range len(e.endpoint) {
		h = (h ^ uint64(e.endpoint[i])) * 1099511628211
	}
	h = (h ^ uint64(e.class) ^ 0x100) * 1099511628211
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return digest(h ^ h>>31)
}

// replace is for an endpoint whose weight was old and is of class c now.
func (d *digest) replace(endpoint string, old int, c class) {
	if old > 0 {
		d.toggle(entry{endpoint, classOf(old)})
	}
	if c != 0 {
		d.toggle(entry{endpoint, c})
	}
}
