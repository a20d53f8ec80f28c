package client

import (
	"cmp"
	"slices"
	"time"
)

// What a listener decides about its tunnels: pure functions of what it holds.

// defaultConnections is how many tunnels a listener keeps: one may be lost.
const defaultConnections = 2

// place is where a tunnel leads: two tunnels to one place are one too many. A
// node says its id; of a server that says none (v0.9.0) we know no more than
// the URL that led to it.
type place struct {
	node string
	url  int // 0 if node is known
}

func placeOf(node string, url int) place {
	if node != "" {
		return place{node: node}
	}
	return place{url: url}
}

// holding is what has to be known of one tunnel that is open and not left.
type holding struct {
	place place
	urls  []int // that lead to it: the one that it was dialled by, and others that were tried in vain since
	since time.Time
	asked time.Time // when the node asked us to move; zero if it has not
	late  bool      // it was asked for so long ago that it is not to wait for what replaces it
	nodes int       // how many there are that do not drain, as its node said
	said  uint64    // a later word has a higher number
}

func (h holding) isAsked() bool { return !h.asked.IsZero() }

// plan is what follows from a set of holdings.
type plan struct {
	want    int   // how many tunnels there should be
	short   int   // how many have to be opened; those that are to be left do not count
	bare    []int // URLs that no tunnel came by; to be tried even if no tunnel is short
	leave   []int // holdings that were asked for and can be left: there is another one, or they are late
	surplus []int // holdings beyond want, least needed first
}

// decide says what a listener should do that wants connections tunnels through
// urls URLs. URLs may lead to one cluster or to several, which shows when one
// leads to a node that another led to already: as far as is known, the nodes of
// different clusters add up, and a URL that nothing is known of has one.
func decide(connections, urls int, held []holding) plan {
	g := groupURLs(urls, held)
	var p plan
	for u := range urls {
		if !slices.ContainsFunc(held, func(h holding) bool { return slices.Contains(h.urls, u) }) {
			p.bare = append(p.bare, u)
		}
	}
	p.want = min(connections, g.nodes())
	if urls > connections {
		p.bare = nil // not each of them can have its tunnel
	}
	var good, asked []int
	for i, h := range held {
		if !h.isAsked() {
			good = append(good, i)
		} else {
			asked = append(asked, i)
		}
	}
	p.short = max(p.want-len(good), 0)

	// Those that were asked first go first, one for each that is there without
	// having been asked; the others serve until they are replaced, or for as
	// long as one of those is there that serves without them.
	slices.SortStableFunc(asked, func(a, b int) int { return held[a].asked.Compare(held[b].asked) })
	n := min(len(asked), len(good), len(good)+len(asked)-p.want)
	if len(good) >= p.want {
		n = len(asked)
	}
	n = max(n, 0)
	p.leave = asked[:n:n]
	for _, i := range asked[n:] {
		if held[i].late && len(good) > 0 {
			p.leave = append(p.leave, i)
		}
	}

	if extra := len(good) - p.want; extra > 0 {
		slices.SortFunc(good, func(a, b int) int {
			return cmp.Or(g.needed(held[a])-g.needed(held[b]), held[b].since.Compare(held[a].since))
		})
		p.surplus = good[:extra]
	}
	return p
}

// verdict is what becomes of a tunnel that was just opened.
type verdict int

const (
	keep      verdict = iota
	duplicate         // leads to where we are
	needless          // there are enough
)

// judge decides about the tunnel c, whose node has had the last word on the
// cluster's size. at is the holding that it duplicates, or else -1.
func judge(connections, urls int, held []holding, c holding) (v verdict, at int) {
	all := append(slices.Clone(held), c)
	good := 0
	for i, h := range held {
		// A node that asked us to move and takes us back has changed its mind,
		// or there is none that we could move to: one that is about to stop
		// would not, while there is another.
		if h.place == c.place && !(h.isAsked() && groupURLs(urls, all).exhausted(all, c)) {
			return duplicate, i
		}
		if !h.isAsked() {
			good++
		}
	}
	if good < decide(connections, urls, all).want || slices.Contains(decide(connections, urls, held).bare, c.urls[0]) {
		return keep, -1
	}
	return needless, -1
}

// excluded are the nodes that a tunnel by this URL is not to lead to, as far as
// can be said before it is there.
func excluded(connections, urls int, held []holding, url int) []string {
	var nodes []string
	for _, h := range held {
		// It has no word: what is known of the cluster's size holds.
		c := holding{place: h.place, urls: []int{url}, nodes: 1}
		if v, _ := judge(connections, urls, held, c); v == duplicate && h.place.node != "" && !slices.Contains(nodes, h.place.node) {
			nodes = append(nodes, h.place.node)
		}
	}
	return nodes
}

// groups are sets of URLs that lead to one cluster.
type groups struct {
	of    []int // the group of each URL, named by one of its URLs
	size  []int // the nodes of the cluster of each group
	holds []int // the tunnels to it
	came  []int // the tunnels of each URL
}

func groupURLs(urls int, held []holding) *groups {
	g := &groups{of: make([]int, urls), size: make([]int, urls), holds: make([]int, urls), came: make([]int, urls)}
	for u := range g.of {
		g.of[u] = u
	}
	for _, h := range held {
		for _, u := range h.urls {
			from, to := g.of[u], g.of[h.urls[0]]
			for v, of := range g.of {
				if of == from {
					g.of[v] = to
				}
			}
			g.came[u]++
		}
	}
	said := make([]uint64, urls)
	for _, h := range held {
		of := g.of[h.urls[0]]
		g.holds[of]++
		if h.said >= said[of] {
			said[of], g.size[of] = h.said, h.nodes
		}
	}
	return g
}

// nodes is how many nodes there are, as far as is known.
func (g *groups) nodes() int {
	n := 0
	for u, of := range g.of {
		if u == of {
			n += max(g.size[u], 1)
		}
	}
	return n
}

// exhausted says whether h's cluster has several nodes, and tunnels of ours on
// every one of them.
func (g *groups) exhausted(held []holding, h holding) bool {
	of := g.of[h.urls[0]]
	places := map[place]bool{}
	for _, o := range held {
		if g.of[o.urls[0]] == of {
			places[o.place] = true
		}
	}
	return g.size[of] >= 2 && g.size[of] <= len(places)
}

// needed ranks h: what is worth less can be done without sooner. A cluster that
// has fewer nodes than we have tunnels to it can spare one; among those it is
// one whose node knows nothing of that, since it may be cut off from the
// others; the only tunnel of a URL stays.
func (g *groups) needed(h holding) int {
	of, rank := g.of[h.urls[0]], 0
	if g.holds[of] <= max(g.size[of], 1) {
		rank += 4
	}
	if h.nodes == g.size[of] {
		rank += 2
	}
	if slices.ContainsFunc(h.urls, func(u int) bool { return g.came[u] == 1 }) {
		rank++
	}
	return rank
}

// urlState is what is known of one of the URLs.
type urlState struct {
	tunnels   int       // that came by it, and attempts under way
	failed    bool      // the last attempt
	refusal   bool      // the last attempt, in a way that no other can mend
	tried     time.Time // when it began; zero if there was none
	notBefore time.Time // when the server wants the next one
}

// pickURL says which of the allowed URLs to try now: one by which no tunnel came,
// before others, unless it failed; then in turn. It returns -1 if all of them
// have to wait.
func pickURL(urls []urlState, allowed []int, now time.Time) int {
	best := -1
	for _, u := range allowed {
		if !urls[u].notBefore.After(now) && (best < 0 || urls[u].compare(urls[best]) < 0) {
			best = u
		}
	}
	return best
}

func (s urlState) compare(o urlState) int {
	return cmp.Or(s.rank()-o.rank(), s.tried.Compare(o.tried))
}

// rank has two values only: were one that fails always before one by which
// there are tunnels, or after it, one of them would never be tried.
func (s urlState) rank() int {
	if s.tunnels == 0 && !s.failed {
		return 0
	}
	return 1
}

// share is what each of n tunnels says of a listener of this weight: so that
// all of them together count as one. Only 0 becomes 0, which means unhealthy.
func share(weight, n int) int {
	if weight <= 0 {
		return 0
	}
	return max(weight/max(n, 1), 1)
}
