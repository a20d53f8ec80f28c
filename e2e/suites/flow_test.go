package suites

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"testing"
	"time"

	testgrpc "google.golang.org/grpc/interop/grpc_testing"
)

// What a reader that reads nothing may let pass, and cost each process on the way.
const (
	flowMessage = 64 << 10
	flowOnWay   = 32 << 20 // about 1 MiB is usual; gRPC may take 16 MiB at each end
	flowMemory  = 64 << 20
	flowTotal   = 96 << 20 // more than may be on the way
)

// TestSlowReader wants a sender to wait for a reader that does not read, in both directions,
// instead of somebody on the way keeping what was sent. Then the reader goes on and gets all.
func TestSlowReader(t *testing.T) {
	t.Parallel()
	everyUpstream(t, func(t *testing.T, p *path, serve serveGRPC) {
		var sent atomic.Int64
		read := make(chan struct{})
		serve(t, "slow", newTestServer(&service{duplex: func(stream duplexServer) error {
			first, err := stream.Recv()
			if err != nil {
				return err
			}
			if len(first.ResponseParameters) > 0 { // the client is the reader
				return sendAll(stream.Context(), &sent, func(b *testgrpc.Payload) error {
					return stream.Send(&testgrpc.StreamingOutputCallResponse{Payload: b})
				})
			}
			<-read
			_, err = receiveAll(func() (*testgrpc.Payload, error) {
				m, err := stream.Recv()
				return m.GetPayload(), err
			})
			return err
		}}))
		c := p.testClient(t, "slow")
		t.Run("client", func(t *testing.T) { slowClient(t, p, c, &sent) })
		t.Run("server", func(t *testing.T) { slowServer(t, p, c, read) })
	})
}

func slowClient(t *testing.T, p *path, c testgrpc.TestServiceClient, sent *atomic.Int64) {
	stream, err := c.FullDuplexCall(within(t, 2*time.Minute))
	if err == nil {
		err = stream.Send(&testgrpc.StreamingOutputCallRequest{ResponseParameters: []*testgrpc.ResponseParameters{{}}})
	}
	if err != nil {
		t.Fatalf("start call: %v", err)
	}
	p.wantStall(t, sent)
	n, err := receiveAll(func() (*testgrpc.Payload, error) {
		m, err := stream.Recv()
		return m.GetPayload(), err
	})
	if err != nil || n != flowTotal {
		t.Errorf("got %d bytes, %v, want %d", n, err, flowTotal)
	}
}

func slowServer(t *testing.T, p *path, c testgrpc.TestServiceClient, read chan struct{}) {
	ctx := within(t, 2*time.Minute)
	stream, err := c.FullDuplexCall(ctx)
	if err == nil {
		err = stream.Send(&testgrpc.StreamingOutputCallRequest{})
	}
	if err != nil {
		t.Fatalf("start call: %v", err)
	}
	var sent atomic.Int64
	done := make(chan error, 1)
	go func() {
		done <- sendAll(ctx, &sent, func(b *testgrpc.Payload) error {
			return stream.Send(&testgrpc.StreamingOutputCallRequest{Payload: b})
		})
	}()
	p.wantStall(t, &sent)
	close(read)
	if err := <-done; err != nil {
		t.Errorf("send: %v", err)
	}
	if err := stream.CloseSend(); err != nil {
		t.Errorf("end sending: %v", err)
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("end of the call: %v", err)
	}
}

// sendAll sends flowTotal bytes and counts them.
func sendAll(ctx context.Context, sent *atomic.Int64, send func(*testgrpc.Payload) error) error {
	b := payload(flowMessage)
	for sent.Load() < flowTotal && ctx.Err() == nil {
		if err := send(b); err != nil {
			return err
		}
		sent.Add(flowMessage)
	}
	return ctx.Err()
}

// receiveAll receives until the end and counts the bytes.
func receiveAll(receive func() (*testgrpc.Payload, error)) (n int, err error) {
	for {
		b, err := receive()
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, fmt.Errorf("after %d bytes: %w", n, err)
		}
		n += len(b.GetBody())
	}
}

// wantStall waits until a sender has been waiting for a while, and wants little to be on the
// way by then, and in the memory of the nodes.
func (p *path) wantStall(t *testing.T, sent *atomic.Int64) {
	t.Helper()
	last, since := int64(-1), time.Now()
	eventually(t, time.Minute, "the sender waits", func() error {
		if n := sent.Load(); n != last || n == 0 {
			last, since = n, time.Now()
		}
		if d := time.Since(since); d < 2*time.Second {
			return fmt.Errorf("%d bytes are sent, for %v", last, d)
		}
		return nil
	})
	if last > flowOnWay {
		t.Errorf("%d bytes are on the way to a reader that does not read, want at most %d", last, flowOnWay)
	}
	for _, n := range []*node{p.entry, p.owner} {
		if n == nil {
			continue
		}
		rss := n.memory(t, "VmRSS")
		t.Logf("%d bytes on the way, %s has %d bytes of memory", last, n.id, rss)
		if rss > flowMemory && os.Getenv(raceEnv) != "1" { // the race detector needs as much again, or more
			t.Errorf("%s has %d bytes of memory, want at most %d", n.id, rss, flowMemory)
		}
	}
}
