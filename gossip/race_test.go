//go:build race

package gossip

// The race detector's own state overflows in bubbles with millions of timers:
// "ThreadSanitizer: CHECK failed", or a segmentation violation. Long runs are
// short with it.
const raceEnabled = true
