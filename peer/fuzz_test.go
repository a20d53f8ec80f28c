package peer

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"testing"
)

// FuzzHandshakeOfACaller feeds the callee's reader of requests.
func FuzzHandshakeOfACaller(f *testing.F) {
	a, b := Node{Epoch: "a-1"}, Node{Epoch: "b-1"}
	f.Add([]byte(rawHello(a, b, proofMAC, nil)))
	f.Add([]byte(rawHello(a, b, proofTLS, map[string]string{headerNonce: ""})))
	f.Add([]byte(rawHello(a, b, proofMAC, map[string]string{headerCaller: "a\x7f"})))
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(raw)))
		if err != nil {
			return
		}
		h, ok := readHello(r)
		if !ok {
			return
		}
		if !validEpoch(h.caller) || !validEpoch(h.callee) || h.proof == "" {
			t.Fatalf("accepted %+v", h)
		}
		// What was understood is what we would say.
		again, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(appendHello(nil, &h, "x"))))
		if err != nil {
			t.Fatal(err)
		}
		if h2, ok := readHello(again); !ok || h2 != h {
			t.Fatalf("%+v became %+v, %v", h, h2, ok)
		}
	})
}

// FuzzHandshakeOfACallee feeds the caller's readers of answer and proof. No
// bytes are a proof but those of who has the key.
func FuzzHandshakeOfACallee(f *testing.F) {
	f.Add([]byte(switching))
	f.Add([]byte(switching + string(make([]byte, nonceSize+macSize+1))))
	f.Add([]byte("HTTP/1.1 403 Forbidden\r\nX-Piko-Peer-Refused: unknown-caller\r\nContent-Length: 0\r\n\r\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		br := bufio.NewReaderSize(&io.LimitedReader{R: bytes.NewReader(raw), N: maxAnswer}, 1<<10)
		if readSwitching(br) != nil {
			return
		}
		x := exchange{caller: Node{Epoch: "a-1", Key: make([]byte, plainKey)}, callee: Node{Epoch: "b-1", Key: []byte("0123456789abcdef")}}
		var sent bytes.Buffer
		if err := x.proveCaller(br, &sent); err == nil {
			t.Fatal("accepted a proof")
		}
		if sent.Len() > 0 {
			t.Fatal("proved itself to who had not")
		}
	})
}
