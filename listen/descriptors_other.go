//go:build !unix

package listen

// descriptorLimit is for systems that count descriptors.
func descriptorLimit() int { return 0 }
