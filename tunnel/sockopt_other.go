//go:build !linux

package tunnel

import "net"

func platformOptions(*net.TCPConn) {}
