package tunnel

import (
	"crypto/subtle"
	"encoding/binary"
)

// maskCopy masks src into dst, which is as long: in one pass, where a copy and
// maskBytes would be two.
func maskCopy(dst, src []byte, key uint32) {
	if len(src) >= wideMask {
		var block [keyBlock]byte
		expandKey(&block, key)
		for len(src) > 0 {
			n := subtle.XORBytes(dst, src, block[:])
			dst, src = dst[n:], src[n:]
		}
		return
	}
	k := uint64(key)<<32 | uint64(key)
	for len(src) >= 8 {
		binary.LittleEndian.PutUint64(dst, binary.LittleEndian.Uint64(src)^k)
		dst, src = dst[8:], src[8:]
	}
	for i := range src {
		dst[i] = src[i] ^ byte(k)
		k >>= 8
	}
}

// expandKey repeats the key.
func expandKey(block *[keyBlock]byte, key uint32) {
	binary.LittleEndian.PutUint32(block[:], key)
	for n := 4; n < keyBlock; n *= 2 {
		copy(block[n:], block[:n])
	}
}
