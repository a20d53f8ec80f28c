package main

import (
	"bufio"
	"crypto/rand"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
)

// As much of RFC 6455 as the demo says to itself: short, unfragmented text
// messages and a close. It is not tunnel's carrier, on purpose: the demo is to
// show that a stranger's WebSocket goes through.

const (
	wsText  = 0x1
	wsClose = 0x8

	wsMaxPayload = 125 // longer ones need a longer header
)

var errWebSocket = errors.New("not a short WebSocket frame")

// wsAccept is the proof that the other side speaks WebSocket (RFC 6455, 1.3).
func wsAccept(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// wsWrite writes one frame of at most 125 bytes, masked if from a client.
func wsWrite(w io.Writer, opcode byte, payload []byte, client bool) error {
	if len(payload) > wsMaxPayload {
		return errWebSocket
	}
	frame := []byte{0x80 | opcode, byte(len(payload))}
	if client {
		mask := make([]byte, 4)
		rand.Read(mask)
		frame[1] |= 0x80
		frame = append(frame, mask...)
		payload = slices.Clone(payload)
		wsMask(payload, mask)
	}
	_, err := w.Write(append(frame, payload...))
	return err
}

// wsRead reads one frame of at most 125 bytes; it wants a mask if from a client.
func wsRead(r io.Reader, fromClient bool) (opcode byte, payload []byte, err error) {
	var header [2]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return 0, nil, err
	}
	masked, n := header[1]&0x80 != 0, int(header[1]&0x7f)
	if header[0]&0xf0 != 0x80 || masked != fromClient || n > wsMaxPayload {
		return 0, nil, errWebSocket
	}
	var mask [4]byte
	if masked {
		if _, err := io.ReadFull(r, mask[:]); err != nil {
			return 0, nil, err
		}
	}
	payload = make([]byte, n)
	_, err = io.ReadFull(r, payload)
	wsMask(payload, mask[:])
	return header[0] & 0xf, payload, err
}

func wsMask(payload, mask []byte) {
	for i := range payload {
		payload[i] ^= mask[i%4]
	}
}

// wsEcho is a handler that answers each text message with itself and a close
// with a close.
func wsEcho(w http.ResponseWriter, r *http.Request) {
	key := r.Header.Get("Sec-WebSocket-Key")
	if key == "" {
		http.Error(w, "this path speaks WebSocket", http.StatusUpgradeRequired)
		return
	}
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer conn.Close()
	fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n", wsAccept(key))
	for {
		opcode, payload, err := wsRead(rw, true)
		if err != nil || wsWrite(conn, opcode, payload, false) != nil || opcode == wsClose {
			return
		}
	}
}

// wsDial sends req over conn as a WebSocket handshake and returns the reader
// of the frames behind the answer.
func wsDial(conn net.Conn, req *http.Request) (*bufio.Reader, error) {
	nonce := make([]byte, 16)
	rand.Read(nonce)
	key := base64.StdEncoding.EncodeToString(nonce)
	req.Header.Set("Upgrade", "websocket")
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Sec-WebSocket-Version", "13")
	req.Header.Set("Sec-WebSocket-Key", key)
	if err := req.Write(conn); err != nil {
		return nil, err
	}
	r := bufio.NewReader(conn)
	res, err := http.ReadResponse(r, req)
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusSwitchingProtocols {
		res.Body.Close()
		return nil, fmt.Errorf("handshake answered with %s", res.Status)
	}
	if res.Header.Get("Sec-WebSocket-Accept") != wsAccept(key) {
		return nil, errors.New("handshake answered with a wrong Sec-WebSocket-Accept")
	}
	return r, nil
}
