package accesslog

import (
	"strconv"
	"time"
	"unicode"
	"unicode/utf8"
)

// verbatim has the bytes that stand for themselves inside of quotes.
var verbatim = func() (t [256]bool) {
	for c := ' '; c <= '~'; c++ {
		t[c] = c != '"' && c != '\\'
	}
	return t
}()

// plainWord says that the 8 bytes of s are all verbatim, which most are. If it is wrong, then
// in saying no.
func plainWord(s string) bool {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	x := uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
		uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
	quote, slash := x^ones*'"', x^ones*'\\'
	low := (x - ones*' ') & ^x // below the blank
	high := x | (x + ones)     // from DEL on
	return (low|high|(quote-ones)&^quote|(slash-ones)&^slash)&highs == 0
}

const hexDigits = "0123456789abcdef"

// appendQuoted appends s as a JSON string of one line, cut to maxValue bytes of
// input. Whatever cannot be printed is escaped: control bytes, line separators
// such as U+2028, marks that change the direction of the text. A byte that is
// no UTF-8 becomes U+FFFD.
func appendQuoted(b []byte, s string) []byte {
	long := len(s) > maxValue
	if long {
		s = s[:runeStart(s, maxValue)]
	}
	b = append(b, '"')
	start := 0
	for i := 0; i < len(s); {
		for len(s)-i >= 8 && plainWord(s[i:i+8]) {
			i += 8
		}
		if i == len(s) {
			break
		}
		c := s[i]
		if verbatim[c] {
			i++
			continue
		}
		b = append(b, s[start:i]...)
		if c < utf8.RuneSelf {
			b = appendEscapedByte(b, c)
			i++
		} else {
			r, size := utf8.DecodeRuneInString(s[i:])
			b = appendRune(b, r)
			i += size
		}
		start = i
	}
	b = append(b, s[start:]...)
	if long {
		b = append(b, "..."...)
	}
	return append(b, '"')
}

func appendEscapedByte(b []byte, c byte) []byte {
	switch c {
	case '"', '\\':
		return append(b, '\\', c)
	case '\n':
		return append(b, '\\', 'n')
	case '\r':
		return append(b, '\\', 'r')
	case '\t':
		return append(b, '\\', 't')
	}
	return append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
}

// appendRune gets utf8.RuneError for bytes that are no UTF-8.
func appendRune(b []byte, r rune) []byte {
	if unicode.IsPrint(r) && r != utf8.RuneError {
		return utf8.AppendRune(b, r)
	}
	if r > 0xffff {
		// Two surrogates, as JSON has it.
		r -= 0x10000
		b = appendUnit(b, 0xd800+r>>10)
		return appendUnit(b, 0xdc00+r&0x3ff)
	}
	return appendUnit(b, r)
}

func appendUnit(b []byte, u rune) []byte {
	return append(b, '\\', 'u', hexDigits[u>>12&15], hexDigits[u>>8&15], hexDigits[u>>4&15], hexDigits[u&15])
}

// runeStart is the start of the rune that the byte n of s is part of, or n if
// s is no UTF-8 there.
func runeStart(s string, n int) int {
	for i := n; i > n-utf8.UTFMax && i >= 0; i-- {
		if utf8.RuneStart(s[i]) {
			return i
		}
	}
	return n
}

// appendDuration appends what d.String() returns, which would allocate.
func appendDuration(b []byte, d time.Duration) []byte {
	if d < 0 {
		if d == -d { // the one value without a positive counterpart
			return append(b, d.String()...)
		}
		b, d = append(b, '-'), -d
	}
	switch {
	case d == 0:
		return append(b, "0s"...)
	case d < time.Microsecond:
		return append(strconv.AppendInt(b, int64(d), 10), "ns"...)
	case d < time.Millisecond:
		return append(appendFraction(b, d, time.Microsecond), "µs"...)
	case d < time.Second:
		return append(appendFraction(b, d, time.Millisecond), "ms"...)
	}
	if h := d / time.Hour; h > 0 {
		b = append(strconv.AppendInt(b, int64(h), 10), 'h')
	}
	if d >= time.Minute {
		b = append(strconv.AppendInt(b, int64(d%time.Hour/time.Minute), 10), 'm')
	}
	return append(appendFraction(b, d%time.Minute, time.Second), 's')
}

// appendFraction appends d in units, with as many decimals as it has.
func appendFraction(b []byte, d, unit time.Duration) []byte {
	b = strconv.AppendInt(b, int64(d/unit), 10)
	rest := d % unit
	if rest == 0 {
		return b
	}
	b = append(b, '.')
	for rest > 0 {
		unit /= 10
		b = append(b, '0'+byte(rest/unit))
		rest %= unit
	}
	return b
}
