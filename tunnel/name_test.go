package tunnel

import (
	"errors"
	"strings"
	"testing"

	"piko/fault"
)

func TestParseName(t *testing.T) {
	long := strings.Repeat("e", 253)
	tenant := strings.Repeat("t", 64)
	for _, c := range []struct {
		in, want string
		err      error
	}{
		{"my-endpoint", "my-endpoint", nil},
		{"tenant/my-endpoint", "tenant/my-endpoint", nil},
		{"Tenant/My-Endpoint", "tenant/my-endpoint", nil},
		{tenant + "/" + long, tenant + "/" + long, nil},
		{"", "", fault.MissingEndpoint},
		{"/", "", fault.UnknownTenant},
		{"/e", "", fault.UnknownTenant}, // not a second name of "e"
		{"t/", "", fault.MissingEndpoint},
		{"a/b/c", "", fault.InvalidEndpoint},
		{"a//c", "", fault.InvalidEndpoint},
		{"../e", "", fault.UnknownTenant},
		{"./e", "", fault.UnknownTenant},
		{"t/..", "", fault.InvalidEndpoint},
		{"t%2fe", "", fault.InvalidEndpoint},
		{"t /e", "", fault.UnknownTenant},
		{tenant + "t/e", "", fault.UnknownTenant},
		{tenant + "/" + long + "e", "", fault.InvalidEndpoint},
		{"t\u2215e", "", fault.InvalidEndpoint}, // the division slash
	} {
		got, err := ParseName(c.in)
		if got != c.want || !errors.Is(err, c.err) {
			t.Errorf("ParseName(%q) = %q, %v; want %q, %v", c.in, got, err, c.want, c.err)
		}
	}
	if got := len(tenant + "/" + long); got != MaxName {
		t.Errorf("the longest name has %d bytes, MaxName is %d", got, MaxName)
	}
}

func TestParseTenant(t *testing.T) {
	for _, c := range []struct {
		in, want string
		err      error
	}{
		{"acme", "acme", nil},
		{"ACME", "acme", nil},
		{"a.b_c~d:e@f-0", "a.b_c~d:e@f-0", nil},
		{"", "", fault.UnknownTenant},
		{".", "", fault.UnknownTenant},
		{"a/b", "", fault.UnknownTenant},
		{"a b", "", fault.UnknownTenant},
		{"\u212a", "", fault.UnknownTenant},
		{strings.Repeat("t", 65), "", fault.UnknownTenant},
	} {
		got, err := ParseTenant(c.in)
		if got != c.want || !errors.Is(err, c.err) {
			t.Errorf("ParseTenant(%q) = %q, %v; want %q, %v", c.in, got, err, c.want, c.err)
		}
	}
}

func TestParseNameAllocatesNothing(t *testing.T) {
	if n := testing.AllocsPerRun(100, func() { ParseName("tenant/my-endpoint"); SplitName("tenant/my-endpoint") }); n != 0 {
		t.Errorf("%v allocations for a name in canonical form", n)
	}
}

// FuzzJoinName: no two endpoints share a name, and a name says which it is.
func FuzzJoinName(f *testing.F) {
	f.Add("", "endpoint", "tenant", "endpoint")
	f.Add("a", "b.c", "a.b", "c")
	f.Add("A", "B", "a", "b")
	f.Add("a/b", "c", "a", "b/c")
	f.Add("", "a/b", "a", "b")
	f.Fuzz(func(t *testing.T, tenant1, endpoint1, tenant2, endpoint2 string) {
		name1, ok1 := joined(t, tenant1, endpoint1)
		name2, ok2 := joined(t, tenant2, endpoint2)
		if !ok1 || !ok2 {
			return
		}
		same := strings.EqualFold(tenant1, tenant2) && strings.EqualFold(endpoint1, endpoint2)
		if (name1 == name2) != same {
			t.Fatalf("(%q, %q) is %q, (%q, %q) is %q", tenant1, endpoint1, name1, tenant2, endpoint2, name2)
		}
	})
}

// joined makes the name as nodes do of what clients and operators said.
func joined(t *testing.T, tenant, endpoint string) (name string, ok bool) {
	if tenant != "" {
		var err error
		if tenant, err = ParseTenant(tenant); err != nil {
			return "", false
		}
	}
	endpoint, err := ParseEndpoint(endpoint)
	if err != nil {
		return "", false
	}
	name = JoinName(tenant, endpoint)
	if got, err := ParseName(name); got != name || err != nil {
		t.Fatalf("JoinName made %q, ParseName says %q, %v", name, got, err)
	}
	if a, b := SplitName(name); a != tenant || b != endpoint {
		t.Fatalf("%q of (%q, %q) splits into (%q, %q)", name, tenant, endpoint, a, b)
	}
	return name, true
}

// FuzzParseName: what other nodes say is a name in one form only, and a client's
// endpoint never has a tenant.
func FuzzParseName(f *testing.F) {
	for _, s := range []string{"", "e", "t/e", "T/E", "/e", "t/", "a/b/c", "../e", "t/..", "\xff/e", "t\u2215e"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if got, err := ParseEndpoint(s); err == nil && strings.Contains(got, nameSeparator) {
			t.Fatalf("a client's endpoint %q is %q", s, got)
		}
		got, err := ParseName(s)
		if err != nil {
			if !errors.Is(err, fault.InvalidEndpoint) && !errors.Is(err, fault.MissingEndpoint) && !errors.Is(err, fault.UnknownTenant) {
				t.Fatalf("ParseName(%q): %v has no code", s, err)
			}
			return
		}
		if again, err := ParseName(got); again != got || err != nil || len(got) > MaxName {
			t.Fatalf("%q is canonical, but parses as %q, %v", got, again, err)
		}
		if JoinName(SplitName(got)) != got {
			t.Fatalf("%q splits into other parts", got)
		}
	})
}
