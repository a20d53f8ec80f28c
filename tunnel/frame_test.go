package tunnel

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"testing"
)

// testKey masks the frames that tests make.
var testKey = [4]byte{0xa1, 0x02, 0xf3, 0x44}

// A testFrame is a frame as a test writes it, byte by byte after RFC 6455.
type testFrame struct {
	op      byte
	more    bool // FIN is not set
	masked  bool
	payload []byte
}

func (f testFrame) bytes() []byte {
	b := []byte{f.op | 0x80, 0}
	if f.more {
		b[0] = f.op
	}
	switch n := len(f.payload); {
	case n < 126:
		b[1] = byte(n)
	case n < 1<<16:
		b[1] = 126
		b = binary.BigEndian.AppendUint16(b, uint16(n))
	default:
		b[1] = 127
		b = binary.BigEndian.AppendUint64(b, uint64(n))
	}
	if !f.masked {
		return append(b, f.payload...)
	}
	b[1] |= 0x80
	b = append(b, testKey[:]...)
	for i, c := range f.payload {
		b = append(b, c^testKey[i%4])
	}
	return b
}

// parseTestFrame reads a frame, in the same plain way. n is 0 if b is too short.
func parseTestFrame(b []byte) (f testFrame, n int) {
	if len(b) < 2 {
		return f, 0
	}
	f = testFrame{op: b[0] & 0x0f, more: b[0]&0x80 == 0, masked: b[1]&0x80 != 0}
	size, n := int(b[1]&0x7f), 2
	switch {
	case size == 126 && len(b) >= 4:
		size, n = int(binary.BigEndian.Uint16(b[2:])), 4
	case size == 127 && len(b) >= 10:
		size, n = int(binary.BigEndian.Uint64(b[2:])), 10
	case size >= 126:
		return f, 0
	}
	var key [4]byte
	if f.masked {
		if len(b) < n+4 {
			return f, 0
		}
		n += copy(key[:], b[n:])
	}
	if len(b) < n+size {
		return f, 0
	}
	for i, c := range b[n : n+size] {
		f.payload = append(f.payload, c^key[i%4])
	}
	return f, n + size
}

func TestMaskBytesAgreesWithTheRFC(t *testing.T) {
	src := make([]byte, 3*wideMask)
	rand.Read(src)
	for _, n := range []int{0, 1, 2, 3, 4, 5, 7, 8, 9, 31, 32, 33, 63, 127, 1000, wideMask - 1, wideMask, wideMask + 1, wideMask + keyBlock + 3, 3*wideMask - 2} {
		for offset := range 5 {
			key := testKey[:]
			want := make([]byte, n)
			in := src[offset%3:][:n]
			for i := range want {
				want[i] = in[i] ^ key[(i+offset)%4]
			}
			k := binary.LittleEndian.Uint32(key)
			for range offset {
				k = maskBytes([]byte{0}, k)
			}
			got := bytes.Clone(in)
			next := maskBytes(got, k)
			if !bytes.Equal(got, want) {
				t.Fatalf("%d bytes at offset %d of the key are masked wrongly", n, offset)
			}
			if byte(next) != key[(n+offset)%4] {
				t.Fatalf("after %d bytes at offset %d the key goes on with %x, want %x", n, offset, byte(next), key[(n+offset)%4])
			}
		}
	}
}

func TestPutHeaderIsReadBack(t *testing.T) {
	for _, n := range []int{0, 1, 125, 126, 127, 65535, 65536, 200_000} {
		for _, masked := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d bytes, masked %v", n, masked), func(t *testing.T) {
				b := make([]byte, headroom+n)
				rand.Read(b)
				payload := bytes.Clone(b[headroom:])
				var key *uint32
				if masked {
					k := uint32(0x01020384)
					key = &k
					maskBytes(b[headroom:], k)
				}
				frame := b[putHeader(b, opBinary, key):]
				f, size := parseTestFrame(frame)
				if size != len(frame) || f.op != opBinary || f.more || f.masked != masked || !bytes.Equal(f.payload, payload) {
					t.Errorf("the frame has op %d, more %v, masked %v and %d of %d bytes, or another payload", f.op, f.more, f.masked, size, len(frame))
				}
				h, hsize, err := parseHeader(frame)
				if err != nil || hsize != len(frame)-n || h.length != uint64(n) || h.masked != masked || !h.fin {
					t.Errorf("parseHeader: %+v of %d bytes, %v", h, hsize, err)
				}
				for cut := range hsize {
					if _, size, err := parseHeader(frame[:cut]); size != 0 || err != nil {
						t.Errorf("parseHeader of the first %d bytes: size %d, %v; want to be asked for more", cut, size, err)
					}
				}
			})
		}
	}
}
