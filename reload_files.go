package main

import (
	"crypto/sha256"
	"fmt"
	"io"
	"os"
)

// maxFingerprint bounds what is read of a file to see whether it has changed.
const maxFingerprint = 8 << 20

// fingerprint changes when a file does, whichever way: written over, replaced,
// or the target of a symbolic link, of it or of a directory above, as Kubernetes
// does it. What counts is what is in it. "" is a file that cannot be watched,
// such as a pipe, which would be empty the next time.
func fingerprint(path string) string {
	info, err := os.Stat(path)
	if err != nil {
		return "error: " + err.Error()
	}
	switch {
	case info.IsDir():
		return fmt.Sprintf("directory of %v", info.ModTime())
	case !info.Mode().IsRegular():
		return ""
	}
	f, err := os.Open(path)
	if err != nil {
		return "error: " + err.Error()
	}
	defer f.Close()
	sum := sha256.New()
	n, err := io.Copy(sum, io.LimitReader(f, maxFingerprint))
	if err != nil {
		return "error: " + err.Error()
	}
	text := fmt.Sprintf("%d bytes %x", n, sum.Sum(nil))
	if n == maxFingerprint {
		text += fmt.Sprintf(" of %d, %v", info.Size(), info.ModTime())
	}
	return text
}
