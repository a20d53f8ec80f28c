//go:build unix

package main

import (
	"cmp"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// terminalSize is the columns and rows of a terminal; an error says that it is
// none. Either may be 0 if the terminal does not know.
func terminalSize(f *os.File) (columns, rows int, err error) {
	raw, err := f.SyscallConn() // Fd would make the file block
	if err != nil {
		return 0, 0, err
	}
	failed := raw.Control(func(fd uintptr) {
		var size *unix.Winsize
		if size, err = unix.IoctlGetWinsize(int(fd), unix.TIOCGWINSZ); err == nil {
			columns, rows = int(size.Col), int(size.Row)
		}
	})
	return columns, rows, cmp.Or(err, failed)
}

// watchTerminal calls changed when the terminal has another size, and when the
// process goes on after it was stopped, until stop is called.
func watchTerminal(changed func()) (stop func()) {
	signals, over := make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(signals, syscall.SIGWINCH, syscall.SIGCONT)
	var running sync.WaitGroup
	running.Go(func() {
		for {
			select {
			case <-signals:
				changed()
			case <-over:
				return
			}
		}
	})
	return func() {
		signal.Stop(signals)
		close(over)
		running.Wait()
	}
}
