//go:build !race

package proxy

// raceEnabled is in race_test.go.
const raceEnabled = false
