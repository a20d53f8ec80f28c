package relay

import (
	"sync"
	"sync/atomic"
)

const (
	// readBuffer holds most heads whole. Longer ones make it grow; large bodies bypass it.
	readBuffer = 4 << 10
	// copyBuffer is for bodies, largeBuffer for those that turn out to be long and fast.
	copyBuffer  = 32 << 10
	largeBuffer = 128 << 10
	// maxLarge bounds the large buffers in use: many clients that are all slow do with small ones.
	maxLarge = 256
)

var (
	readBuffers  = sync.Pool{New: func() any { b := make([]byte, readBuffer); return &b }}
	copyBuffers  = sync.Pool{New: func() any { b := make([]byte, copyBuffer); return &b }}
	largeBuffers = sync.Pool{New: func() any { b := make([]byte, largeBuffer); return &b }}
	largeInUse   atomic.Int32 // belongs to largeBuffers
)

// largerBuffer gives a large buffer for a copy buffer, or the same back if there are too many.
func largerBuffer(buf *[]byte) *[]byte {
	if len(*buf) == largeBuffer {
		return buf
	}
	if largeInUse.Add(1) > maxLarge {
		largeInUse.Add(-1)
		return buf
	}
	copyBuffers.Put(buf)
	return largeBuffers.Get().(*[]byte)
}

// putCopyBuffer takes back either kind.
func putCopyBuffer(buf *[]byte) {
	if len(*buf) == largeBuffer {
		largeInUse.Add(-1)
		largeBuffers.Put(buf)
		return
	}
	copyBuffers.Put(buf)
}
