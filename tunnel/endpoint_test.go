package tunnel

import (
	"errors"
	"strings"
	"testing"

	"piko/fault"
)

func TestParseEndpoint(t *testing.T) {
	long := strings.Repeat("e", 253)
	for _, c := range []struct {
		in, want string
		err      error
	}{
		{"my-endpoint", "my-endpoint", nil},
		{"My-Endpoint", "my-endpoint", nil},
		{"a", "a", nil},
		{"0._~:@-z", "0._~:@-z", nil},
		{"...", "...", nil},
		{long, long, nil},
		{strings.ToUpper(long), long, nil},
		{"", "", fault.MissingEndpoint},
		{long + "e", "", fault.InvalidEndpoint},
		{strings.Repeat("e", 300), "", fault.InvalidEndpoint},
		{".", "", fault.InvalidEndpoint},
		{"..", "", fault.InvalidEndpoint},
		{"a/b", "", fault.InvalidEndpoint},
		{"a b", "", fault.InvalidEndpoint},
		{"a\x00b", "", fault.InvalidEndpoint},
		{"a%2fb", "", fault.InvalidEndpoint},
		{"a\r\nx: y", "", fault.InvalidEndpoint},
		{"endpünkt", "", fault.InvalidEndpoint},
		{"a,b", "", fault.InvalidEndpoint},
		{"a?b", "", fault.InvalidEndpoint},
		{"\u212a", "", fault.InvalidEndpoint}, // the Kelvin sign, whose lower case is k
	} {
		got, err := ParseEndpoint(c.in)
		if got != c.want || !errors.Is(err, c.err) {
			t.Errorf("ParseEndpoint(%q) = %q, %v; want %q, %v", c.in, got, err, c.want, c.err)
		}
	}
}

func TestParseEndpointAllocatesNothing(t *testing.T) {
	if n := testing.AllocsPerRun(100, func() { ParseEndpoint("my-endpoint.of:some@length") }); n != 0 {
		t.Errorf("%v allocations for a name in lower case", n)
	}
}

func FuzzParseEndpoint(f *testing.F) {
	for _, s := range []string{"", "my-endpoint", "MY.Endpoint", "a/b", "..", "\xff", "\u0130"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := ParseEndpoint(s)
		if err != nil {
			if !errors.Is(err, fault.InvalidEndpoint) && !errors.Is(err, fault.MissingEndpoint) {
				t.Fatalf("ParseEndpoint(%q): %v has no code", s, err)
			}
			return
		}
		if again, err := ParseEndpoint(got); again != got || err != nil {
			t.Fatalf("%q is canonical, but parses as %q, %v", got, again, err)
		}
		if len(got) != len(s) || !strings.EqualFold(got, s) || strings.ContainsAny(got, "/\\%?# \r\n\x00ABCXYZ") {
			t.Fatalf("ParseEndpoint(%q) = %q", s, got)
		}
	})
}
