//go:build !race

package tunnel

// raceEnabled is in race_test.go.
const raceEnabled = false
