package accesslog

import (
	"sync/atomic"
	"time"
)

// stamps appends times of a line. Those of one second differ in their milliseconds only. Safe
// for concurrent use.
type stamps struct{ last atomic.Pointer[stamp] }

// stamp is how the times of a second in a zone are written.
type stamp struct {
	second int64
	zone   *time.Location
	text   string
}

// millisAt is where a text has its milliseconds.
const millisAt = len("2006-01-02T15:04:05.")

// append appends t as timeFormat has it.
func (s *stamps) append(b []byte, t time.Time) []byte {
	last, second := s.last.Load(), t.Unix()
	if last == nil || last.second != second || last.zone != t.Location() {
		last = &stamp{second: second, zone: t.Location(), text: t.Format(timeFormat)}
		if len(last.text) <= millisAt || last.text[millisAt-1] != '.' {
			return append(b, last.text...) // a year of five digits
		}
		s.last.Store(last)
	}
	ms := t.Nanosecond() / 1e6
	b = append(b, last.text[:millisAt]...)
	b = append(b, byte('0'+ms/100), byte('0'+ms/10%10), byte('0'+ms%10))
	return append(b, last.text[millisAt+3:]...)
}
