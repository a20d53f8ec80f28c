//go:build race

package proxy

// raceEnabled: the race detector empties pools at random.
const raceEnabled = true
