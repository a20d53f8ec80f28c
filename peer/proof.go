package peer

import (
	"bytes"
	"cmp"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/big"
	"time"
)

const (
	nonceSize    = 32
	macSize      = sha256.Size
	plainKey     = 16          // bytes of Node.Key without a secret
	authorityKey = 24          // with an authority
	secureKey    = sha256.Size // with a secret alone
	welcome      = 1           // the byte that says that the caller's proof was right
)

// Who speaks, in a MAC: nobody can send our own proof back to us.
const (
	fromCaller = "caller"
	fromCallee = "callee"
)

var (
	errProof   = errors.New("proof is wrong")
	errWelcome = errors.New("not welcomed after the proof")
	errEarly   = errors.New("bytes before the proof")
)

// Purposes of MACs.
const (
	macPurpose = "piko peer mac-1"
	caPurpose  = "piko peer tls-2"
)

// exchange is what both sides of a mac-1 proof know.
type exchange struct {
	purpose                  string // "" is macPurpose
	caller, callee           Node
	callerNonce, calleeNonce [nonceSize]byte
}

// mac is the proof of one direction.
func (x *exchange) mac(direction string) []byte {
	h := hmac.New(sha256.New, appendPrefixed(appendPrefixed(nil, x.caller.Key), x.callee.Key))
	var b []byte
	for _, part := range [][]byte{
		[]byte(cmp.Or(x.purpose, macPurpose)), []byte(direction), []byte(x.caller.Epoch), []byte(x.callee.Epoch), x.callerNonce[:], x.calleeNonce[:],
	} {
		b = appendPrefixed(b, part)
	}
	h.Write(b)
	return h.Sum(nil)
}

// appendPrefixed appends part with its length in front, so that no two lists of
// parts give the same bytes.
func appendPrefixed(b, part []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(part)))
	return append(b, part...)
}

// proveCallee is the callee's side of mac-1, after its 101.
func (x *exchange) proveCallee(rw io.ReadWriter) error {
	rand.Read(x.calleeNonce[:])
	if _, err := rw.Write(append(x.calleeNonce[:], x.mac(fromCallee)...)); err != nil {
		return fmt.Errorf("send proof: %w", err)
	}
	var got [macSize]byte
	if _, err := io.ReadFull(rw, got[:]); err != nil {
		return fmt.Errorf("read proof: %w", err)
	}
	if !hmac.Equal(got[:], x.mac(fromCaller)) {
		return errProof
	}
	return sendWelcome(rw)
}

// proveCaller is the caller's side of mac-1. r is where the 101 was read from.
func (x *exchange) proveCaller(r io.Reader, w io.Writer) error {
	var got [nonceSize + macSize]byte
	if _, err := io.ReadFull(r, got[:]); err != nil {
		return fmt.Errorf("read proof: %w", err)
	}
	copy(x.calleeNonce[:], got[:])
	if !hmac.Equal(got[nonceSize:], x.mac(fromCallee)) {
		return errProof
	}
	if _, err := w.Write(x.mac(fromCaller)); err != nil {
		return fmt.Errorf("send proof: %w", err)
	}
	return nil
}

func sendWelcome(w io.Writer) error {
	if _, err := w.Write([]byte{welcome}); err != nil {
		return fmt.Errorf("send welcome: %w", err)
	}
	return nil
}

// readWelcome reads one byte and no more: a session begins behind it.
func readWelcome(r io.Reader) error {
	var b [1]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return fmt.Errorf("read welcome: %w", err)
	}
	if b[0] != welcome {
		return errWelcome
	}
	return nil
}

// identity is this process' key: for mac-1 and tls-2 random bytes, for tls-1 a
// certificate and its fingerprint.
type identity struct {
	key  []byte
	cert *tls.Certificate // for tls-1 only
}

// newAuthorityIdentity is that of a node with certificates.
func newAuthorityIdentity() *identity {
	key := make([]byte, authorityKey)
	rand.Read(key)
	return &identity{key: key}
}

func newIdentity(secure bool) (*identity, error) {
	if !secure {
		key := make([]byte, plainKey)
		rand.Read(key)
		return &identity{key: key}, nil
	}
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	// Nobody looks at the rest of it: the fingerprint is what counts, and it
	// lives as long as the process.
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "piko node"},
		NotBefore:    time.Unix(0, 0),
		NotAfter:     time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
	}, &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "piko node"}}, public, private)
	if err != nil {
		return nil, fmt.Errorf("make certificate: %w", err)
	}
	sum := sha256.Sum256(der)
	return &identity{key: sum[:], cert: &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: private}}, nil
}

// tlsProtocol keeps a handshake for something else from being one of ours.
const tlsProtocol = "piko-peer/1"

// tlsConfig is that of a connection to or from the node whose fingerprint is
// key, whichever side we are.
func (id *identity) tlsConfig(key []byte) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		Certificates:           []tls.Certificate{*id.cert},
		NextProtos:             []string{tlsProtocol},
		ClientAuth:             tls.RequireAnyClientCert,
		InsecureSkipVerify:     true, // there is no authority: VerifyConnection pins the certificate
		SessionTicketsDisabled: true, // a proof for each connection
		VerifyConnection: func(cs tls.ConnectionState) error {
			if cs.NegotiatedProtocol != tlsProtocol || len(cs.PeerCertificates) == 0 {
				return errProof
			}
			sum := sha256.Sum256(cs.PeerCertificates[0].Raw)
			if !bytes.Equal(sum[:], key) {
				return errProof
			}
			return nil
		},
	}
}
