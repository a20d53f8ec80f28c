//go:build race

package agent

// raceEnabled: the race detector allocates.
const raceEnabled = true
