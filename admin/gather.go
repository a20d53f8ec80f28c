package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"piko/fault"
)

// A question with ?cluster=true is asked at all nodes, in the way of ?forward=,
// and the answers are put together. What is missing is said to be.

const (
	clusterParam  = "cluster"
	gatherTimeout = 2 * time.Second // for a node's answer
	gatherAtOnce  = 16              // nodes that one question is asked at
	maxGathered   = 32 << 20        // bytes of a node's answer
)

// wantsCluster reports whether all nodes are asked.
func wantsCluster(r *http.Request) bool {
	v := r.URL.Query().Get(clusterParam)
	return v == "true" || v == "1"
}

// answer is what one node said.
type answer[T any] struct {
	node  Node
	value T
	err   error
}

// gather asks all other nodes that are part of the cluster for path, and returns
// their answers in the order of their ids. A node that has just died is one too.
func gather[T any](f *forwarder, r *http.Request, path string, query url.Values) []answer[T] {
	var answers []answer[T]
	for _, n := range f.server.nodes() {
		if n.ID != f.server.NodeID && n.Status != StatusLeft {
			answers = append(answers, answer[T]{node: n})
		}
	}
	slots := make(chan struct{}, gatherAtOnce)
	var asking sync.WaitGroup
	for i := range answers {
		a := &answers[i]
		if a.node.Status == StatusUnreachable {
			a.err = fmt.Errorf("node %q is %s", a.node.ID, StatusUnreachable)
			continue
		}
		slots <- struct{}{}
		asking.Go(func() {
			defer func() { <-slots }()
			a.err = f.read(r, a.node, path, query, &a.value)
		})
	}
	asking.Wait()
	return answers
}

// read asks one node and decodes its answer into v.
func (f *forwarder) read(r *http.Request, node Node, path string, query url.Values, v any) error {
	ctx, cancel := context.WithTimeout(r.Context(), gatherTimeout)
	defer cancel()
	question := r.WithContext(ctx)
	question.Method = http.MethodGet
	question.URL = &url.URL{Path: path, RawQuery: query.Encode()}
	header := r.Header.Clone()
	header.Del("Accept-Encoding")
	header.Set("Accept", "application/json")
	question.Header = header
	res, err := f.ask(ctx, question, node)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fault.ReadRefused(res)
	}
	if err := json.NewDecoder(io.LimitReader(res.Body, maxGathered)).Decode(v); err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	return nil
}

// missing are the nodes that did not answer, each with a word for the client;
// the log has the rest.
func missing[T any](s *Server, answers []answer[T]) []Partial {
	partial := []Partial{} // not null
	for _, a := range answers {
		if a.err == nil {
			continue
		}
		s.log().Debug("ask node for its part", "node", a.node.ID, "error", a.err)
		partial = append(partial, Partial{a.node.ID, explain(a.err)})
	}
	return partial
}

// explain says of an error what is for clients. A node's own refusal is a text
// of ours, such as that of v0.9.0 which has no such route.
func explain(err error) string {
	text := fault.From(err).Text()
	if fault.From(err).Code == fault.Internal {
		text = err.Error()
	}
	return strings.TrimSpace(text)
}
