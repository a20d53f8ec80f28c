package proxy

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// rawHTTP2 is an HTTP/2 client that says what it is told, and no more. It belongs to one goroutine.
type rawHTTP2 struct {
	t   testing.TB
	nc  net.Conn
	fr  *http2.Framer
	enc *hpack.Encoder
	buf bytes.Buffer

	gone string // how the connection ended
}

// dialHTTP2 connects to the proxy port with prior knowledge.
func (w *world) dialHTTP2(settings ...http2.Setting) *rawHTTP2 {
	w.t.Helper()
	nc, err := net.Dial("tcp", w.addr)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { nc.Close() })
	c := &rawHTTP2{t: w.t, nc: nc, fr: http2.NewFramer(nc, nc)}
	c.fr.AllowIllegalWrites = true
	c.fr.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	c.enc = hpack.NewEncoder(&c.buf)
	nc.SetReadDeadline(time.Now().Add(10 * time.Second))
	io.WriteString(nc, http2.ClientPreface)
	c.fr.WriteSettings(settings...)
	return c
}

// request opens a stream with the fields, which are name, value, ...
func (c *rawHTTP2) request(id uint32, end bool, fields ...string) {
	c.buf.Reset()
	for i := 0; i+1 < len(fields); i += 2 {
		c.enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	c.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: c.buf.Bytes(), EndHeaders: true, EndStream: end})
}

// h2Answer is what came on one stream.
type h2Answer struct {
	status   string
	header   http.Header
	body     string
	trailer  http.Header
	interims []string // statuses of 1xx responses
	reset    string   // code of RST_STREAM, or of the end of the connection
	ended    bool     // END_STREAM came
}

// read waits until a stream has ended, one way or another. What comes on others is dropped.
func (c *rawHTTP2) read(id uint32) (a h2Answer) {
	for !a.ended && a.reset == "" {
		a.add(c, id)
	}
	return a
}

// add takes the next frame.
func (a *h2Answer) add(c *rawHTTP2, id uint32) {
	f, err := c.fr.ReadFrame()
	if err != nil {
		a.reset = c.gone
		if a.reset == "" {
			a.reset = err.Error()
		}
		return
	}
	if s, ok := f.(*http2.SettingsFrame); ok && !s.IsAck() {
		c.fr.WriteSettingsAck()
		return
	}
	if g, ok := f.(*http2.GoAwayFrame); ok {
		c.gone = "GOAWAY " + g.ErrCode.String()
		return
	}
	if f.Header().StreamID != id {
		return
	}
	switch f := f.(type) {
	case *http2.MetaHeadersFrame:
		a.fields(f)
		a.ended = f.StreamEnded()
	case *http2.DataFrame:
		a.body += string(f.Data())
		a.ended = f.StreamEnded()
		if n := uint32(len(f.Data())); n > 0 {
			c.fr.WriteWindowUpdate(0, n)
		}
	case *http2.RSTStreamFrame:
		a.reset = f.ErrCode.String()
	}
}

func (a *h2Answer) fields(f *http2.MetaHeadersFrame) {
	h := make(http.Header)
	for _, field := range f.RegularFields() {
		h.Add(field.Name, field.Value)
	}
	switch status := f.PseudoValue("status"); {
	case status == "":
		a.trailer = h
	case status[0] == '1':
		a.interims = append(a.interims, status)
	default:
		a.status, a.header = status, h
	}
}

// newClient is net/http's own HTTP/2 client, with prior knowledge.
func newHTTP2Client(t testing.TB) *http.Client {
	tr := &http.Transport{Protocols: new(http.Protocols), DisableCompression: true}
	tr.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}
