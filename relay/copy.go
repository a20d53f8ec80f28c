package relay

import (
	"errors"
	"io"
	"net/http"
)

// CopyResponse writes res to the client: the end-to-end fields of its header over what w.Header() has, its body, its
// trailers, announced or not. Nothing is added: where the service gave no Content-Type, none is made up. Whenever the
// service has nothing more for now, what came is flushed, also when the length is known: a client is to see what a
// service that pauses has said, and that a response which dies half-way has begun. A response without a body is never
// flushed, so that gRPC's trailers-only responses stay one piece. It closes res.Body and returns the bytes of body that
// were written.
//
// An error must end in panic(http.ErrAbortHandler): the response has begun, and its client would take the part that it
// got for the whole. The error is a *ClientError if the client could not be written to; otherwise the service's.
func CopyResponse(w http.ResponseWriter, res *http.Response) (n int64, err error) {
	defer res.Body.Close()
	h := w.Header()
	copyHeader(h, res.Header)
	if _, ok := h["Content-Type"]; !ok {
		h["Content-Type"] = nil // net/http would guess one
	}
	announced := announceTrailers(h, res.Trailer)
	w.WriteHeader(res.StatusCode)
	if res.Body == http.NoBody {
		return 0, nil
	}
	if n, err = copyBody(w, res); err != nil {
		return n, err
	}
	if len(res.Trailer) > 0 {
		err = copyTrailers(w, res.Trailer, announced)
	}
	return n, err
}

// announceTrailers names the trailers that the service announced, and returns how many there were.
func announceTrailers(h, trailer http.Header) int {
	n := 0
	for name := range trailer {
		if !noTrailer(name) {
			h["Trailer"] = append(h["Trailer"], name)
			n++
		}
	}
	return n
}

// copyTrailers hands the trailers to net/http, which must be chunking by now.
func copyTrailers(w http.ResponseWriter, trailer http.Header, announced int) error {
	h := w.Header()
	names := h["Trailer"]
	for name, values := range trailer {
		if noTrailer(name) {
			continue
		}
		if announced == 0 || !hasToken(names, name) {
			name = http.TrailerPrefix + name
		}
		h[name] = values
	}
	return flush(w)
}

// copyBody copies the body as the kind of it asks for.
func copyBody(w http.ResponseWriter, res *http.Response) (int64, error) {
	if x, ok := res.Body.(*exchange); ok {
		if n, ok, err := x.writeBuffered(w); ok {
			return int64(n), clientError(err)
		}
	}
	body, ours := res.Body.(interface{ waiting() bool })
	flushIfIdle := func() error {
		if ours && body.waiting() {
			return nil
		}
		return flush(w)
	}
	if err := flushIfIdle(); err != nil { // the client may act on the head alone
		return 0, err
	}
	return copyPieces(w, res.Body, flushIfIdle)
}

// copyPieces copies a body and calls between after each piece but the last. A body that keeps filling the buffer gets a
// larger one, which takes a tenth off what long bodies cost.
func copyPieces(w io.Writer, body io.Reader, between func() error) (n int64, err error) {
	buf := copyBuffers.Get().(*[]byte)
	defer func() { putCopyBuffer(buf) }()
	for full := 0; ; {
		r, err := body.Read(*buf)
		if r > 0 {
			m, werr := w.Write((*buf)[:r])
			n += int64(m)
			if werr != nil {
				return n, clientError(werr)
			}
		}
		if err == io.EOF {
			return n, nil
		}
		if err == nil {
			err = between()
		}
		if err != nil {
			return n, err
		}
		if full++; r < len(*buf) {
			full = 0
		}
		if full == 2 {
			buf = largerBuffer(buf)
		}
	}
}

func clientError(err error) error {
	if err == nil {
		return nil
	}
	return &ClientError{Op: "write response", Err: err}
}

// flush sends what net/http holds. A writer that cannot be flushed has nothing to send.
func flush(w http.ResponseWriter) error {
	err := http.NewResponseController(w).Flush()
	if errors.Is(err, http.ErrNotSupported) {
		return nil
	}
	return clientError(err)
}
