package proxy

import (
	"bytes"
	"net/http"
	"strconv"
)

// What a hopLane reads and takes away of the heads of messages.

// Target implements relay.LaneFilter. It is what begins a head.
func (k *hopLane) Target(target []byte) bool {
	k.routes, k.attempts, k.more = 0, 0, 0
	return !mayBeReserved(target)
}

// mayBeReserved looks at the path of a target as isReserved does, with its escapes undone, but takes a little more.
func mayBeReserved(target []byte) bool {
	for i := range len(reserved) {
		if len(target) == 0 {
			return false
		}
		c, n := target[0], 1
		if c == '%' && len(target) > 2 {
			v, err := strconv.ParseUint(string(target[1:3]), 16, 8)
			if err != nil {
				return true
			}
			c, n = byte(v), 3
		}
		if c != reserved[i] {
			return false
		}
		target = target[n:]
	}
	return true
}

// pikoName returns what follows the prefix of a name that only piko may use; nil for others.
func pikoName(name []byte) []byte {
	const n = len(prefixPiko)
	if len(name) >= n && name[1] == '-' && bytes.EqualFold(name[:n], []byte(prefixPiko)) {
		return name[n:]
	}
	return nil
}

// RequestField implements relay.LaneFilter. What it does not know is the handler's.
func (k *hopLane) RequestField(name, value []byte) (keep, ok bool) {
	name = pikoName(name)
	switch {
	case name == nil:
		return true, true
	case bytes.EqualFold(name, []byte(headerRoute[len(prefixPiko):])):
		k.routes++
		if !bytes.Equal(value, k.route) || k.endpoint == "" {
			k.route = append(k.route[:0], value...)
			k.endpoint, _ = parseRoute(string(value))
		}
		return false, k.routes == 1 && k.endpoint != ""
	case bytes.EqualFold(name, []byte(headerAttempts[len(prefixPiko):])):
		k.attempts++
		k.more = moreAttempts(string(value))
		return false, k.attempts == 1
	}
	return true, bytes.EqualFold(name, []byte(headerEndpoint[len(prefixPiko):]))
}

// ResponseField implements relay.LaneFilter: it is cleanResponse.
func (k *hopLane) ResponseField(status int, name, value []byte) (keep, ok bool) {
	if name = pikoName(name); name == nil {
		return true, true
	}
	if !bytes.EqualFold(name, []byte(headerError[len(prefixPiko):])) {
		return false, true
	}
	if k.fields++; k.fields > 1 {
		return false, false
	}
	k.agentError = agentCode(status, string(value))
	return k.agentError, true
}

// ResponseHeader implements relay.LaneFilter.
func (k *hopLane) ResponseHeader(status int, h http.Header) {
	res := &http.Response{StatusCode: status, Header: h}
	cleanResponse(res)
	k.fields, k.agentError = 0, agentError(res)
}
