package listen

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// comeAtOnce has n clients connect at the same time and returns how long it took until all were let in, in virtual time.
func comeAtOnce(t *testing.T, p *port, n int) time.Duration {
	t.Helper()
	began := time.Now()
	for range n {
		defer p.mem.dial("192.0.2.1").Close()
	}
	for range n {
		(<-p.accepted).Close()
	}
	return time.Since(began)
}

func TestConnectionsComeAtAPaceBesideOtherWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var busy atomic.Bool
		p := open(t, Options{Busy: busy.Load})
		if took := comeAtOnce(t, p, 1000); took != 0 {
			t.Errorf("with nothing else to do 1000 connections took %v, want no pause", took)
		}
		busy.Store(true)
		if took := comeAtOnce(t, p, paceBurst); took != 0 {
			t.Errorf("the first %d beside other work took %v, want no pause", paceBurst, took)
		}
		const n = 1000
		took := comeAtOnce(t, p, n)
		if least, most := n/paceMost*float64(paceNap), n/paceAtFirst*float64(paceNap)+float64(10*paceNap); float64(took) < least || float64(took) > most {
			t.Errorf("%d beside other work took %v, want %v to %v", n, took, time.Duration(least), time.Duration(most))
		}
		time.Sleep(time.Second) // virtual
		if took := comeAtOnce(t, p, paceBurst); took != 0 {
			t.Errorf("%d after a rest took %v, want no pause", paceBurst, took)
		}
		busy.Store(false)
		time.Sleep(2 * paceMemory) // virtual
		comeAtOnce(t, p, 1)        // was waited for with the answer from before
		if took := comeAtOnce(t, p, 1000); took != 0 {
			t.Errorf("when the other work was over 1000 took %v, want no pause", took)
		}
	})
}

func TestPaceFollowsHowLateNapsAre(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		nap  time.Duration
		want float64 // connections each millisecond, in the end
	}{
		{"on time", paceNap, paceMost},
		{"a little late", 2 * paceNap, paceAtFirst},
		{"late", 10 * paceNap, paceLeast},
	} {
		p := pace{rate: paceAtFirst}
		for range 1000 {
			p.adapt(tt.nap)
		}
		if p.rate != tt.want {
			t.Errorf("naps that are %s: %v connections each millisecond, want %v", tt.name, p.rate, tt.want)
		}
	}
}
