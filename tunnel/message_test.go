package tunnel

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestControlMessagesSurviveTheWire(t *testing.T) {
	weight := 0
	for name, m := range map[string]message{
		"drain":           {Type: typeDrain, Reason: "node stops", ReconnectWithin: 1500},
		"drain, bare":     {Type: typeDrain},
		"drained":         {Type: typeDrained, Last: 1<<32 - 2},
		"drained, none":   {Type: typeDrained},
		"cluster":         {Type: typeCluster, Nodes: 3},
		"weight, zero":    {Type: typeWeight, Weight: &weight},
		"reason, newline": {Type: typeDrain, Reason: "two\nlines \x00 \u2028"},
	} {
		t.Run(name, func(t *testing.T) {
			line := appendMessage(nil, m)
			if n := bytes.Count(line, []byte{'\n'}); n != 1 || line[len(line)-1] != '\n' {
				t.Fatalf("%q is not one line", line)
			}
			got, err := parseMessage(line[:len(line)-1])
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(appendMessage(nil, got), line) {
				t.Fatalf("came back as %+v", got)
			}
		})
	}
}

func TestDrainMessageIsWithinBounds(t *testing.T) {
	long := strings.Repeat("x", 10000)
	sent := drainMessage(DrainMessage{Reason: long, ReconnectWithin: 24 * time.Hour})
	if line := appendMessage(nil, sent); len(line) > maxControlLine {
		t.Errorf("a line of %d bytes, more than a peer takes", len(line))
	}
	for _, m := range []message{
		sent,
		{Reason: long, ReconnectWithin: 1 << 62},
		{ReconnectWithin: -1 << 62},
	} {
		got := m.drain()
		if len(got.Reason) > maxReason || got.ReconnectWithin < 0 || got.ReconnectWithin > maxReconnectTime {
			t.Errorf("reason of %d bytes, reconnect within %v", len(got.Reason), got.ReconnectWithin)
		}
	}
}

func TestParseMessageTakesWhatItDoesNotKnow(t *testing.T) {
	for line, ok := range map[string]bool{
		`{"type":"drain"}`:                           true,
		`{"type":"something new","with":[1,2,{}]}`:   true,
		`{"type":"weight","weight":50,"extra":null}`: true,
		`{}`:                            true,
		` {"type":"drain"} `:            true,
		`[]`:                            false,
		`"drain"`:                       false,
		`{"type":1}`:                    false,
		`{"type":"weight","weight":"`:   false,
		`{"type":"drained"}{}`:          false,
		`{"last_stream_id":-1}`:         false,
		`{"last_stream_id":4294967296}`: false,
		"\x00":                          false,
	} {
		_, err := parseMessage([]byte(line))
		if (err == nil) != ok {
			t.Errorf("%s: error %v, want ok %v", line, err, ok)
		}
		if _, bad := errors.AsType[*ProtocolError](err); err != nil && !bad {
			t.Errorf("%s: %v is no protocol error", line, err)
		}
	}
}

// feedAll feeds b in pieces of n bytes and returns the lines.
func feedAll(r *lineReader, b []byte, n int) (lines []string, err error) {
	for piece := range slices.Chunk(b, n) {
		err = r.feed(piece, func(line []byte) error {
			lines = append(lines, string(line))
			return nil
		})
		if err != nil {
			break
		}
	}
	return lines, err
}

func TestLinesDoNotDependOnHowTheyArrive(t *testing.T) {
	longest := strings.Repeat("y", maxControlLine)
	in := []byte("one\n\n\ntwo\n" + longest + "\nthree\nunfinished")
	want := []string{"one", "two", longest, "three"}
	for _, n := range []int{1, 2, 3, 128, 4096, 1 << 20} {
		var r lineReader
		got, err := feedAll(&r, in, n)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("in pieces of %d: %d lines, %v", n, len(got), err)
		}
		if string(r.part) != "unfinished" {
			t.Errorf("in pieces of %d: %q is left", n, r.part)
		}
	}
}

func TestLineThatIsTooLongIsRefusedBeforeItIsHeld(t *testing.T) {
	for _, n := range []int{1, 100, 1 << 20} {
		var r lineReader
		_, err := feedAll(&r, bytes.Repeat([]byte{'z'}, 1<<20), n)
		if !errors.Is(err, errLineTooLong) || len(r.part) > maxControlLine {
			t.Errorf("in pieces of %d: %d bytes are held, error %v", n, len(r.part), err)
		}
	}
}

func TestLineReaderHoldsNothingBetweenLines(t *testing.T) {
	var r lineReader
	if _, err := feedAll(&r, []byte("{\"type\":\"drain\"}\n"), 4); err != nil || r.part != nil {
		t.Fatalf("holds %q, error %v", r.part, err)
	}
}

func FuzzControl(f *testing.F) {
	f.Add([]byte(`{"type":"drain","reason":"x","reconnect_within_ms":100}`+"\n"), 3)
	f.Add([]byte(`{"type":"weight","weight":-5}`+"\n\n{}\n"), 1)
	f.Add(bytes.Repeat([]byte("a"), maxControlLine+1), 64)
	f.Fuzz(func(t *testing.T, in []byte, n int) {
		var r lineReader
		lines, err := feedAll(&r, in, min(max(n, 1), 512))
		if len(r.part) > maxControlLine {
			t.Fatalf("holds %d bytes", len(r.part))
		}
		if err == nil {
			joined := strings.Join(append(lines, string(r.part)), "\n")
			want := strings.Join(strings.FieldsFunc(string(in), func(c rune) bool { return c == '\n' }), "\n")
			if strings.TrimRight(joined, "\n") != want {
				t.Fatalf("lines %q of %q", lines, in)
			}
		}
		for _, line := range lines {
			m, err := parseMessage([]byte(line))
			if err != nil {
				continue
			}
			if !json.Valid([]byte(line)) {
				t.Fatalf("%q was taken for JSON", line)
			}
			if d := m.drain(); d.ReconnectWithin < 0 || d.ReconnectWithin > maxReconnectTime || len(d.Reason) > maxReason {
				t.Fatalf("drain out of bounds: %v", d.ReconnectWithin)
			}
		}
	})
}
