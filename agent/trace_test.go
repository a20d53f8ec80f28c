package agent

import (
	"strings"
	"testing"

	"piko/relay"
)

// A lane of an agent that traces carries what has no span beyond doubt, and nothing else.
func TestUntracedRequestsStayInLanes(t *testing.T) {
	t.Parallel()
	const id = "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331"
	for _, tt := range []struct {
		parents []string
		want    bool
	}{
		{nil, false}, // the agent decides
		{[]string{"00-" + id + "-00"}, true},
		{[]string{"00-" + id + "-02"}, true},
		{[]string{"00-" + id + "-01"}, false},
		{[]string{"01-" + id + "-00"}, false},
		{[]string{"00-" + id}, false},
		{[]string{""}, false},
		{[]string{"00-" + strings.ToUpper(id) + "-00"}, false},
		{[]string{"00-" + id + "-00", "00-" + id + "-00"}, false},
	} {
		var u untraced
		for range 2 { // heads of one connection
			head := []byte("GET / HTTP/1.1\r\nHost: x\r\n")
			for _, p := range tt.parents {
				head = append(head, "TraceParent: "+p+"\r\nTracestate: a=1\r\n"...)
			}
			if got := relay.Plain(append(head, "\r\n"...), &u) && u.parents == 1; got != tt.want {
				t.Errorf("%q: stays %v, want %v", tt.parents, got, tt.want)
			}
		}
	}
}
