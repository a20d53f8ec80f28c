package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestHostPorts(t *testing.T) {
	for text, want := range map[string][2]string{
		"node-1":                {"node-1", ""},
		"node-1.example.com:80": {"node-1.example.com", "80"},
		"_gossip._tcp.piko":     {"_gossip._tcp.piko", ""},
		"10.0.0.5":              {"10.0.0.5", ""},
		"10.0.0.5:8003":         {"10.0.0.5", "8003"},
		"2001:db8::5":           {"2001:db8::5", ""},
		"[2001:db8::5]":         {"2001:db8::5", ""},
		"[2001:db8::5]:8003":    {"2001:db8::5", "8003"},
		"fe80::1%eth0":          {"fe80::1%eth0", ""},
	} {
		var a advertiseAddr
		if err := a.UnmarshalText([]byte(text)); err != nil {
			t.Errorf("%q: %v", text, err)
		}
		if host, port := a.split(); host != want[0] || port != want[1] {
			t.Errorf("%q: host %q, port %q; want %q", text, host, port, want)
		}
	}
	for _, text := range []string{"", ":8003", "a b", "http://node-1", "node-1:", "node-1:x", "node-1:0", "node-1:65536", "a:b:c", "node-1:80:80", "[node-1", "a,b"} {
		var a joinAddr
		if err := a.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q was accepted", text)
		}
	}
}

func TestSecretFile(t *testing.T) {
	first, second := strings.Repeat("a", 16), strings.Repeat("b", 44)
	for _, tt := range []struct {
		name, text string
		want       []string
		err        string
	}{
		{"one", first, []string{first}, ""},
		{"two, for a rotation", "\n" + first + " \r\n" + second + "\n\n", []string{first, second}, ""},
		{"empty", " \n", nil, "is empty"},
		{"short", first + "\nhunter2\n", nil, ":2: a secret of 7 bytes is too short"},
		{"not a secret file", strings.Repeat(first, maxSecretFile/16+1), nil, "more than 65536 bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := clusterConfig{SecretFile: writeFile(t, "secret", tt.text)}
			got, err := cfg.secrets()
			if tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err) || strings.Contains(err.Error(), "hunter2")) {
				t.Errorf("the error is %v, want %q", err, tt.err)
			}
			if tt.err == "" && (err != nil || !slices.Equal(got, tt.want)) {
				t.Errorf("got %q, %v; want %q", got, err, tt.want)
			}
		})
	}
	if _, err := (&clusterConfig{SecretFile: t.TempDir() + "/none"}).secrets(); err == nil {
		t.Error("a file that is not there was accepted")
	}
}

func TestClusterMistakes(t *testing.T) {
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"--cluster.node-id=a", "--cluster.node-id-prefix=b"}, "not both"},
		{[]string{"--cluster.node-id-prefix=" + strings.Repeat("a", 60)}, "use at most 57"},
		{[]string{"--cluster.secret=" + strings.Repeat("a", 16), "--cluster.secret-file=x"}, "not both"},
		{[]string{"--cluster.secret-file=/does/not/exist"}, "no such file"},
		{[]string{"--cluster.join=a", "--cluster.join-timeout=0s"}, "leaves no time to join"},
		{[]string{"--cluster.gossip.interval=1ms"}, "use 10ms to 5s"},
		{[]string{"--cluster.gossip.max-packet-size=10"}, "use 512 to 60KiB"},
		{[]string{"--upstream.rebalance.threshold=-1"}, "0 (off) or more"},
		{[]string{"--upstream.rebalance.threshold=NaN"}, "0 (off) or more"},
		{[]string{"--upstream.rebalance.shed-rate=2"}, "at most 1"},
		{[]string{"--upstream.rebalance.min-conns=-1"}, "0 or more"},
	} {
		cfg, err := parseServer(t, nil, tt.args...)
		if err == nil {
			err = cfg.check()
		}
		if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), strings.SplitN(tt.args[0], "=", 2)[0][:9]) {
			t.Errorf("%q: the error is %v, want %q", tt.args, err, tt.want)
		}
	}
}

func TestSecretsAreNotPrinted(t *testing.T) {
	cfg, err := parseServer(t, nil, "--cluster.secret="+strings.Repeat("hunter2", 3))
	if err != nil {
		t.Fatal(err)
	}
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		if text := fmt.Sprintf(format, cfg); strings.Contains(text, "hunter2") {
			t.Errorf("%s shows the secret: %s", format, text)
		}
	}
}
