package main

import (
	"slices"
	"testing"
)

func TestValuesMayBeginWithADash(t *testing.T) {
	k, err := newParser(&newTestProcess(t).process, &settings{})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name       string
		args, want []string
	}{
		{"a key", []string{"server", "--proxy.auth.rsa-public-key", "-----BEGIN"}, []string{"server", "--proxy.auth.rsa-public-key=-----BEGIN"}},
		{"a secret", []string{"agent", "start", "--connect.token", "-x=y"}, []string{"agent", "start", "--connect.token=-x=y"}},
		{"a flag in place of a value", []string{"server", "--proxy.timeout", "--log.level", "info"}, []string{"server", "--proxy.timeout", "--log.level", "info"}},
		{"a flag with a value in place of one", []string{"server", "--proxy.timeout", "--log.level=info"}, []string{"server", "--proxy.timeout", "--log.level=info"}},
		{"a short flag", []string{"server", "status", "--server.url", "-o", "json"}, []string{"server", "status", "--server.url", "-o", "json"}},
		{"a flag that takes no value", []string{"server", "--proxy.tls.enabled", "-x"}, []string{"server", "--proxy.tls.enabled", "-x"}},
		{"behind the end of flags", []string{"agent", "--", "--connect.token", "-x"}, []string{"agent", "--", "--connect.token", "-x"}},
		{"no value", []string{"server", "--proxy.timeout"}, []string{"server", "--proxy.timeout"}},
		{"the end of flags in place of a value", []string{"agent", "--connect.token", "--", "-x"}, []string{"agent", "--connect.token", "--", "-x"}},
	} {
		if got := joinDashes(tt.args, k.Model); !slices.Equal(got, tt.want) {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}
