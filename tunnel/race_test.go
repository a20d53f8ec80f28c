//go:build race

package tunnel

// raceEnabled: the race detector empties pools at random.
const raceEnabled = true
