//go:build !linux

package bench

import "errors"

// readUsage is for Linux alone.
func readUsage(Process) (usage, error) {
	return usage{}, errors.New("what a process spends is known on Linux only")
}
