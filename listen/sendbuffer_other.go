//go:build !linux

package listen

import "net"

// boundSendBuffer is for systems that know such a bound.
func boundSendBuffer(net.Conn) {}
