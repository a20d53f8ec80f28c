package listen

import (
	"fmt"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// onlyNoSYN is a socket filter that drops segments with SYN and without ACK:
// the first ones of new connections. It sees the TCP header; byte 13 has the
// flags, SYN is 0x02 and ACK 0x10.
var onlyNoSYN = []unix.SockFilter{
	{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: 13},
	{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: 0x12},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: 0x02, Jt: 0, Jf: 1},
	{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	{Code: unix.BPF_RET | unix.BPF_K, K: 0xffffffff},
}

// ignoreNew makes the kernel ignore new connections to ln, while those whose
// handshake has begun can still be accepted. Closing a listener resets those
// that wait to be accepted, with the requests that their clients may have sent
// already; a client that was ignored repeats its SYN after a second, and is
// refused then.
func ignoreNew(ln net.Listener) error {
	sc, ok := ln.(syscall.Conn)
	if !ok {
		return fmt.Errorf("ignore new connections: %T has no socket", ln)
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return fmt.Errorf("ignore new connections: %w", err)
	}
	prog := unix.SockFprog{Len: uint16(len(onlyNoSYN)), Filter: &onlyNoSYN[0]}
	var set error
	if err := raw.Control(func(fd uintptr) {
		set = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &prog)
	}); err != nil {
		return fmt.Errorf("ignore new connections: %w", err)
	}
	if set != nil {
		return fmt.Errorf("attach socket filter: %w", set)
	}
	return nil
}
