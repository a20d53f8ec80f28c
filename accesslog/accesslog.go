// Package accesslog writes the access log: one line for each request that a
// node or an agent forwarded, and one each for the opening and the closing of
// an upgraded connection. The package holds the line's shape, its encoder,
// which allocates nothing, and the buffered writer that lines leave through.
//
// The JSON line is v0.9.0's, with fields of ours added inside of "request":
//
//	{"level":"info","ts":"2026-02-03T04:05:06.789Z","subsystem":"proxy.access","msg":"request",
//	 "request":{"proto":"HTTP/1.1","method":"GET","host":"my-endpoint.example.com","path":"/",
//	 "request_headers":{"Accept":["*/*"]},"response_headers":{},"status":200,"duration":"1.5ms",
//	 "bytes_in":0,"bytes_out":13,"endpoint":"my-endpoint","client":"192.0.2.1:4000", ...}}
//
// Headers are an object of lists, the duration is Go's text for it. Fields of
// ours that are empty are left out. Everything that came from outside is
// escaped, so that no byte of it can end a line, move a cursor or hide another
// field, and is cut to 256 bytes.
//
// It knows nothing of piko but the fields: proxy and agent fill in a Record
// when a request ended and give it to a Logger; main owns the Writer.
package accesslog

import (
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"
)

// Config is what a user sets for one access log. The zero value logs at info,
// with all headers but for the values of those that hold secrets.
type Config struct {
	// Level is the level of the lines. A status of 500 or more raises it to
	// warn.
	Level slog.Level
	// Disable turns the log off.
	Disable bool
	// RequestHeaders and ResponseHeaders choose the headers to log.
	RequestHeaders, ResponseHeaders HeaderFilter
}

// Options is what the program decides for an access log.
type Options struct {
	// Subsystem is the line's "subsystem", such as "proxy.access".
	Subsystem string
	// Text writes key=value lines for people in place of JSON. They show only
	// those headers that an allow list names.
	Text bool
	// MinLevel is the level below which lines are dropped, asked for each
	// line; nil drops none.
	MinLevel slog.Leveler
}

// Kind says what a Record is about.
type Kind int

// The kinds of lines. A connection that was upgraded has one when it opened,
// without status of the end, and one when it closed.
const (
	Request Kind = iota // msg "request"
	Opened              // msg "connection opened"
	Closed              // msg "connection closed"
)

// Record is what is known of a request when it ended. The strings and headers
// may come from outside as they are. Log reads a Record and keeps nothing of it.
type Record struct {
	Kind Kind
	// Time is when the request ended; zero means now.
	Time time.Time
	// Subsystem replaces that of the Logger if it is not empty.
	Subsystem string

	Proto, Method, Host string
	Path                string // without the query, which may hold secrets
	Endpoint            string
	Tenant              string // whose the endpoint is, where tenants have their own
	Subject             string // whom the client's token is for, as it says itself
	TokenID             string // which token that was: of its hash, and never the token
	Client              string // address of the client
	Node                string // id of the node that had the tunnel
	Upstream            string // which tunnel, or the service's address
	Hop                 bool   // the request went over another node
	Status              int
	BytesIn, BytesOut   int64 // of the bodies, or of the upgraded connection
	Duration            time.Duration
	Retries             int
	RequestID           string
	TraceID             string // of the span, where there is one

	RequestHeader, ResponseHeader http.Header
	// RequestFields and ResponseFields are the same for who has no maps of them; they are read where the header is nil. Their
	// names are in canonical form, fields of one name in their order.
	RequestFields, ResponseFields []Field

	Err string // why it failed, if it did
}

// Field is one field of a header.
type Field struct{ Name, Value string }

// Logger writes Records as lines. All methods may be called by any goroutine,
// and on a nil Logger, which is off.
type Logger struct {
	// Static after construction.
	w         io.Writer
	cfg       Config
	opt       Options
	requests  filter
	responses filter
	stamps    stamps // not static, and safe for concurrent use
}

// New returns a Logger whose lines go to w, in one Write each and without
// further locking: w must allow concurrent calls, as a Writer does. It keeps
// neither w's errors nor w open.
func New(w io.Writer, cfg Config, opt Options) *Logger {
	return &Logger{
		w: w, cfg: cfg, opt: opt,
		requests:  newFilter(cfg.RequestHeaders),
		responses: newFilter(cfg.ResponseHeaders),
	}
}

// Enabled reports whether a line with the status would be written: ask before
// filling in a Record.
func (l *Logger) Enabled(status int) bool {
	if l == nil || l.cfg.Disable {
		return false
	}
	return l.opt.MinLevel == nil || l.level(status) >= l.opt.MinLevel.Level()
}

func (l *Logger) level(status int) slog.Level {
	if status >= http.StatusInternalServerError {
		return max(l.cfg.Level, slog.LevelWarn)
	}
	return l.cfg.Level
}

// Log writes the record if its status is Enabled.
func (l *Logger) Log(r *Record) {
	if !l.Enabled(r.Status) {
		return
	}
	e := encoders.Get().(*encoder)
	e.buf = e.buf[:0]
	if l.opt.Text {
		e.text(l, r)
	} else {
		e.json(l, r)
	}
	// A log that cannot be written has nobody to tell; a Writer counts.
	_, _ = l.w.Write(e.buf)
	encoders.Put(e)
}

// encoders keeps the buffers of lines; a line is bounded, and so are they.
var encoders = sync.Pool{New: func() any { return &encoder{buf: make([]byte, 0, 2048)} }}
