package gossip

import (
	"context"
	"net/http"
	"strconv"
	"time"
)

const (
	heartbeatInterval = 5 * time.Second
	batchFew          = 20 * time.Millisecond
	batchMany         = 100 * time.Millisecond // above manyNodes nodes
	writeTimeout      = 10 * time.Second       // a reader that takes nothing for so long is deaf
	maxReaders        = 2 * maxNodes
)

// LogHandler serves the own log: GET with the query epoch and since, the position
// that the reader has. The answer is a stream of frames without end. Only nodes
// that proved who they are may get here.
func (c *Cluster) LogHandler() http.Handler { return http.HandlerFunc(c.serveLog) }

func (c *Cluster) serveLog(w http.ResponseWriter, r *http.Request) {
	since, err := strconv.ParseUint(r.URL.Query().Get("since"), 10, 64)
	if err != nil || r.Method != http.MethodGet {
		http.Error(w, "bad request", http.StatusBadRequest)
		return
	}
	if c.readers.Add(1) > maxReaders {
		c.readers.Add(-1)
		http.Error(w, "too many readers", http.StatusServiceUnavailable)
		return
	}
	defer c.readers.Add(-1)
	w.Header().Set("Content-Type", "application/octet-stream")
	out := &logWriter{w: w, control: http.NewResponseController(w)}
	err = c.writeLog(r.Context(), out, c.own.cursorAt(r.URL.Query().Get("epoch"), since))
	c.log.Debug("reader of this node's log ended", "remote", r.RemoteAddr, "error", err)
}

// writeLog follows the log until the reader or the node ends.
func (c *Cluster) writeLog(ctx context.Context, out *logWriter, cur cursor) error {
	heartbeat := time.NewTicker(heartbeatInterval)
	defer heartbeat.Stop()
	pace := time.NewTimer(0)
	defer pace.Stop()
	var b []byte
	beat := true // at the start too: the reader sees that it is heard
	for {
		changed := c.own.changed()
		for more := true; more; {
			b, cur = c.own.next(b[:0], cur)
			if more = len(b) > 0; !more && beat {
				b, beat = c.own.heartbeat(b), false
			}
			if err := out.write(b); err != nil {
				return err
			}
		}
		// What comes within this time goes together, what comes after it at once.
		pace.Reset(c.batch())
		select {
		case <-pace.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-c.stopped:
			return errStopped
		}
		select {
		case <-changed:
		case <-heartbeat.C:
			beat = true
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-c.stopped:
			return errStopped
		}
	}
}

// batch is the least time between two writes of changes.
func (c *Cluster) batch() time.Duration {
	if c.members.Load() > manyNodes {
		return batchMany
	}
	return batchFew
}

// logWriter writes to one reader.
type logWriter struct {
	w       http.ResponseWriter
	control *http.ResponseController
}

func (o *logWriter) write(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	if err := o.control.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	if _, err := o.w.Write(b); err != nil {
		return err
	}
	return o.control.Flush()
}
