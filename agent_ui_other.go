//go:build !unix

package main

import (
	"errors"
	"os"
)

// terminalSize says that nothing is a terminal that can be drawn on.
func terminalSize(*os.File) (columns, rows int, err error) { return 0, 0, errors.ErrUnsupported }

func watchTerminal(func()) (stop func()) { return func() {} }
