package gossip

import "math/bits"

// Weights travel as classes, so that of a node with many upstreams on an endpoint
// not each that comes or goes is news: 1, 12, 25, 33, 50, 67, 75 and 100 for up to
// one upstream of full weight, and from there each power of two of 100 and one and
// a half times that, up to 2^20 upstreams. Class 0 is none.

// class is a weight in one byte.
type class uint8

var smallWeights = [...]int{0, 1, 12, 25, 33, 50, 67, 75, 100}

const (
	fullClass = class(len(smallWeights) - 1) // of the weight 100
	maxClass  = fullClass + 2*20
)

// weight is what the class stands for.
func (c class) weight() int {
	if c <= fullClass {
		return smallWeights[c]
	}
	steps := int(c - fullClass)
	w := 100 << (steps / 2)
	if steps%2 == 1 {
		w += w / 2
	}
	return w
}

// classOf is the class that is nearest to the weight. More than none is never none.
func classOf(weight int) class {
	if weight <= 0 {
		return 0
	}
	c := class(1)
	if weight > 100 {
		doublings := min(bits.Len(uint(weight/100))-1, 20)
		c = fullClass + class(2*doublings)
	}
	for c < maxClass && nearer(weight, (c+1).weight(), c.weight()) {
		c++
	}
	return c
}

// nearer reports whether w is nearer to a than to the smaller b, by their ratios.
func nearer(w, a, b int) bool { return w >= a || w*w > a*b }
