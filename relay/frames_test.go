package relay

import (
	"bytes"
	"encoding/binary"
	"strconv"
	"testing"
)

// wsFrame is a frame with a payload of zeros.
func wsFrame(first byte, masked bool, length int) []byte {
	b := []byte{first, 0}
	switch {
	case length < 126:
		b[1] = byte(length)
	case length < 1<<16:
		b[1] = 126
		b = binary.BigEndian.AppendUint16(b, uint16(length))
	default:
		b[1] = 127
		b = binary.BigEndian.AppendUint64(b, uint64(length))
	}
	if masked {
		b[1] |= 0x80
		b = append(b, 1, 2, 3, 4)
	}
	return append(b, make([]byte, length)...)
}

// Frames of every kind and length are followed, in whatever pieces they come: between is true at their ends and only
// there.
func TestFrames(t *testing.T) {
	for _, masked := range []bool{false, true} {
		var all []byte
		ends := map[int]bool{0: true}
		for _, first := range []byte{0x82, 0x01, 0x89, 0x00, 0x8a, 0x80, 0xc1} {
			for _, length := range []int{0, 1, 125, 126, 127, 65535, 65536} {
				if first&0x08 != 0 && length > 125 {
					continue
				}
				all = append(all, wsFrame(first, masked, length)...)
				ends[len(all)] = true
			}
		}
		for _, piece := range []int{1, 2, 3, 7, 1000, 65536, len(all)} {
			f := frames{masked: masked}
			for i := 0; i < len(all); {
				n := min(piece, len(all)-i)
				f.follow(all[i : i+n])
				if i += n; f.between() != ends[i] || f.state != framesOpen {
					t.Fatalf("masked %v, pieces of %d, at %d: between is %v, want %v", masked, piece, i, f.between(), ends[i])
				}
			}
		}
	}
}

// Behind a close frame there is no other, and of what are no frames nothing can be said.
func TestFramesEnd(t *testing.T) {
	for _, tt := range []struct {
		name   string
		bytes  []byte
		masked bool
		want   frameState
	}{
		{"close", wsFrame(0x88, true, 2), true, framesClosed},
		{"empty close", wsFrame(0x88, false, 0), false, framesClosed},
		{"close and more", append(wsFrame(0x88, false, 0), "more"...), false, framesClosed},
		{"half a close", wsFrame(0x88, true, 2)[:7], true, framesClosing},
		{"unmasked from a client", wsFrame(0x82, false, 2), true, framesBroken},
		{"masked from a service", wsFrame(0x82, true, 2), false, framesBroken},
		{"unknown operation", wsFrame(0x83, false, 2), false, framesBroken},
		{"unknown control", wsFrame(0x8b, false, 2), false, framesBroken},
		{"long ping", wsFrame(0x89, false, 126), false, framesBroken},
		{"fragmented ping", wsFrame(0x09, false, 1), false, framesBroken},
		{"huge", []byte{0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0}, false, framesBroken},
		{"something else", []byte("GET / HTTP/1.1"), true, framesBroken},
	} {
		f := frames{masked: tt.masked}
		f.follow(tt.bytes)
		if f.state != tt.want || f.between() {
			t.Errorf("%s: got state %d, between %v", tt.name, f.state, f.between())
		}
	}
}

func TestCloseFrame(t *testing.T) {
	if b := closeFrame(false); !bytes.Equal(b, []byte{0x88, 2, 0x03, 0xe9}) {
		t.Errorf("got %x", b)
	}
	b := closeFrame(true)
	for i := range 2 {
		b[6+i] ^= b[2+i]
	}
	if len(b) != 8 || b[0] != 0x88 || b[1] != 0x82 || b[6] != 0x03 || b[7] != 0xe9 {
		t.Errorf("got %x", b)
	}
}

// However the bytes are cut, the same is known behind them; and next never takes nothing or too much.
func FuzzFrames(f *testing.F) {
	f.Add(wsFrame(0x82, true, 300), uint16(3), true)
	f.Add(append(wsFrame(0x01, false, 5), wsFrame(0x88, false, 2)...), uint16(1), false)
	f.Add([]byte{0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0}, uint16(9), false)
	f.Fuzz(func(t *testing.T, b []byte, piece uint16, masked bool) {
		whole, cut := frames{masked: masked}, frames{masked: masked}
		whole.follow(b)
		for rest := b; len(rest) > 0; {
			p := rest[:min(int(piece%64)+1, len(rest))]
			n := cut.next(p)
			if n <= 0 || n > len(p) {
				t.Fatalf("next took %d of %d", n, len(p))
			}
			rest = rest[n:]
		}
		whole.header, cut.header = [10]byte{}, [10]byte{}
		if whole.state < framesClosed && whole != cut {
			t.Fatalf("got %+v, as a whole %+v", cut, whole)
		}
		if whole.state != cut.state || whole.between() != cut.between() {
			t.Fatalf("got %+v, as a whole %+v", cut, whole)
		}
	})
}

// What it costs to follow frames, of which there is one for each message of a chat.
func BenchmarkFrames(b *testing.B) {
	for _, size := range []int{16, 1 << 10, 64 << 10} {
		b.Run(strconv.Itoa(size), func(b *testing.B) {
			p := wsFrame(0x82, true, size)
			b.SetBytes(int64(len(p)))
			f := frames{masked: true}
			for b.Loop() {
				f.follow(p)
			}
		})
	}
}
