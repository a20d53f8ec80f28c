//go:build !linux

package listen

import (
	"errors"
	"net"
)

// ignoreNew is for systems that can hold back new connections to a listener
// before it is closed.
func ignoreNew(net.Listener) error { return errors.ErrUnsupported }
