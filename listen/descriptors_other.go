//go:build !unix

package listen

import "errors"

// descriptorLimit is for systems that count descriptors.
func descriptorLimit() int { return 0 }

// probeDescriptor is for systems that count descriptors.
func probeDescriptor(uintptr) (int, error) { return 0, errors.ErrUnsupported }
