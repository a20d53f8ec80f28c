package terminal

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode"
)

// requestLines are the latest requests, the latest first.
func (v *view) requestLines(room int) [][]cell {
	var out [][]cell
	for i := range maxLatest {
		line := v.latest[(v.next-1-i+2*maxLatest)%maxLatest]
		if len(out) == room || len(line) == 0 {
			break
		}
		if cells := requestLine(line); cells != nil {
			out = append(out, cells)
		}
	}
	return out
}

// requestLine is a line of the access log for a person.
func requestLine(line []byte) []cell {
	var l struct {
		Time    time.Time `json:"ts"`
		Message string    `json:"msg"`
		Request struct {
			Proto, Method, Path, Duration, Client, Endpoint, Error string
			Status                                                 int
			In                                                     int64 `json:"bytes_in"`
			Out                                                    int64 `json:"bytes_out"`
		} `json:"request"`
	}
	if json.Unmarshal(line, &l) != nil {
		return nil
	}
	r := &l.Request
	took, style := r.Duration, green
	if d, err := time.ParseDuration(r.Duration); err == nil {
		took = short(d)
	}
	at := cell{l.Time.Local().Format("15:04:05") + "  ", dim}
	if r.Method == "" {
		return []cell{at, {fmt.Sprintf("%-7s ", r.Proto), bold}, {fmt.Sprintf("%9s  ", took), plain}, {fmt.Sprintf("%s  %d bytes in, %d out  ", r.Endpoint, r.In, r.Out), plain}, {r.Error, red}}
	}
	switch {
	case r.Status >= 500 || r.Error != "":
		style = red
	case r.Status >= 400:
		style = yellow
	}
	return []cell{at, {fmt.Sprintf("%-7s ", r.Method), bold}, {fmt.Sprintf("%3d ", r.Status), style}, {fmt.Sprintf("%9s  ", took), plain}, {r.Path + "  ", plain}, {r.Client + "  ", dim}, {r.Error, red}}
}

// short is a duration in three digits.
func short(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return d.Round(time.Microsecond).String()
	case d < time.Second:
		return d.Round(100 * time.Microsecond).String()
	}
	return d.Round(10 * time.Millisecond).String()
}

// cell is a piece of a line. Its text may be a stranger's.
type cell struct{ text, style string }

// Styles, as what Select Graphic Rendition takes.
const (
	plain  = ""
	bold   = "1"
	dim    = "2"
	red    = "31"
	green  = "32"
	yellow = "33"
	cyan   = "36"
)

// line joins cells to what fits into the columns.
func (v *view) line(cells []cell, columns int) string {
	for len(cells) > 0 && cells[len(cells)-1].text == "" {
		cells = cells[:len(cells)-1]
	}
	var b strings.Builder
	for i, c := range cells {
		if i == len(cells)-1 {
			c.text = strings.TrimRight(c.text, " ")
		}
		text := []rune(strings.Map(printable, c.text))
		if len(text) > columns {
			text = append(text[:max(columns-1, 0)], '…')
			text = text[:columns]
		}
		columns -= len(text)
		if len(text) == 0 {
			continue
		}
		if v.config.Colour && c.style != plain {
			b.WriteString("\x1b[" + c.style + "m" + string(text) + "\x1b[0m")
		} else {
			b.WriteString(string(text))
		}
	}
	return b.String()
}

// printable keeps what moves the cursor off the screen.
func printable(r rune) rune {
	if unicode.IsPrint(r) {
		return r
	}
	return '·'
}
