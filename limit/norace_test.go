//go:build !race

package limit

// raceEnabled says that the race detector runs, under which nothing is measured.
const raceEnabled = false
