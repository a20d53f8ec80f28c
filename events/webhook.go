package events

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Headers of a webhook's requests.
const (
	// HeaderSignature is "t=TIME,v1=HEX": when it was sent, in Unix seconds, and
	// the HMAC-SHA256 of "TIME.BODY" with the secret.
	HeaderSignature = "X-Piko-Signature"
	// HeaderDelivery is the id of the event: the same each time that it is sent.
	HeaderDelivery = "X-Piko-Delivery"
)

// How a Webhook sends. Who receives has webhookTimeout for an answer, and an
// event is tried for giveUpAfter.
const (
	webhookTimeout = 10 * time.Second
	firstPause     = time.Second
	longestPause   = time.Minute
	giveUpAfter    = 15 * time.Minute
	maxAnswer      = 64 << 10 // bytes that are read, so that a connection is used again
)

// Webhook sends the events of a Log about endpoints and nodes to a URL, one after
// the other, each until it was taken. The Log is its queue: when more than that
// come meanwhile, the oldest are lost, and counted. Set the fields before Run.
type Webhook struct {
	// URL gets a POST for each event.
	URL string
	// Secret returns what signs them; it is asked for each request.
	Secret func() []byte
	// Speaks says whether this node is to send what all nodes see; it is asked for
	// each event.
	Speaks func() bool
	// Client makes the requests; nil is one with time-outs that follows no
	// redirects.
	Client *http.Client
	// Logger gets what could not be sent; nil discards.
	Logger *slog.Logger
	// Registerer gets the metrics; nil is none.
	Registerer prometheus.Registerer

	// Set by Run.
	log     *slog.Logger
	results *prometheus.CounterVec
}

// isForAll reports whether every node of the cluster sees the event.
func isForAll(e Event) bool { return e.Type != UpstreamConnected && e.Type != UpstreamDisconnected }

// Run sends what comes after Follow was called, until ctx ends; what has not been
// sent then is lost.
func (h *Webhook) Run(ctx context.Context, reader *Reader) {
	h.init()
	defer h.Client.CloseIdleConnections()
	for {
		e, id, more, ok := reader.Next()
		if lost := reader.Lost(); lost > 0 {
			h.results.WithLabelValues("dropped").Add(float64(lost))
			h.log.Warn("events dropped: the webhook does not keep up", "count", lost)
		}
		switch {
		case !ok:
			select {
			case <-more:
			case <-ctx.Done():
				return
			}
		case isForAll(e) && h.Speaks():
			h.deliver(ctx, e, id)
		}
		if ctx.Err() != nil {
			return
		}
	}
}

func (h *Webhook) init() {
	if h.log = h.Logger; h.log == nil {
		h.log = slog.New(slog.DiscardHandler)
	}
	if h.Client == nil {
		h.Client = &http.Client{
			Timeout:       webhookTimeout,
			Transport:     &http.Transport{Proxy: http.ProxyFromEnvironment, MaxIdleConns: 1, IdleConnTimeout: time.Minute, TLSHandshakeTimeout: webhookTimeout},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
	}
	h.results = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "piko_events_webhook_total",
		Help: "Events for the webhook: sent, failed for good, or dropped since too many were waiting.",
	}, []string{"result"})
	for _, result := range []string{"sent", "failed", "dropped"} {
		h.results.WithLabelValues(result)
	}
	if h.Registerer != nil {
		h.Registerer.MustRegister(h.results)
	}
}

// deliver tries until the event is taken, refused for good or too old.
func (h *Webhook) deliver(ctx context.Context, e Event, id string) {
	body, err := json.Marshal(struct {
		ID string `json:"id"`
		Event
	}{id, e})
	if err != nil {
		return // there is no such event
	}
	until := time.Now().Add(giveUpAfter)
	for pause := firstPause; ; pause = min(2*pause, longestPause) {
		again, err := h.post(ctx, id, body)
		switch {
		case err == nil:
			h.results.WithLabelValues("sent").Inc()
			return
		case ctx.Err() != nil:
			return
		case !again || time.Now().After(until):
			h.results.WithLabelValues("failed").Inc()
			h.log.Warn("event not sent", "id", id, "type", e.Type, "error", err)
			return
		}
		h.log.Debug("event not sent yet", "id", id, "type", e.Type, "error", err)
		timer := time.NewTimer(pause/2 + rand.N(pause/2))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

// post sends an event once. again says that it may be taken later.
func (h *Webhook) post(ctx context.Context, id string, body []byte) (again bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, webhookTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.URL, bytes.NewReader(body))
	if err != nil {
		return false, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "piko")
	req.Header.Set(HeaderDelivery, id)
	req.Header.Set(HeaderSignature, Sign(h.Secret(), time.Now(), body))
	res, err := h.Client.Do(req)
	if err != nil {
		return true, withoutURL(err)
	}
	defer res.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, maxAnswer))
	switch code := res.StatusCode; {
	case code >= 200 && code < 300:
		return false, nil
	case code >= 500, code == http.StatusTooManyRequests, code == http.StatusRequestTimeout:
		return true, fmt.Errorf("the receiver answered %s", res.Status)
	default:
		return false, fmt.Errorf("the receiver answered %s", res.Status)
	}
}

// withoutURL takes the URL out, which may have a secret in it.
func withoutURL(err error) error {
	if ue, ok := errors.AsType[*url.Error](err); ok {
		return ue.Err
	}
	return err
}

// Sign is the value of HeaderSignature for a body that is sent at a time.
func Sign(secret []byte, at time.Time, body []byte) string {
	t := strconv.FormatInt(at.Unix(), 10)
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(t + "."))
	mac.Write(body)
	return "t=" + t + ",v1=" + hex.EncodeToString(mac.Sum(nil))
}
