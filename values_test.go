package main

import (
	"encoding"
	"strings"
	"testing"
)

func TestValues(t *testing.T) {
	for _, tt := range []struct {
		into encoding.TextUnmarshaler
		text string
		want string // in the error; empty is none
	}{
		{new(bindAddr), ":8000", ""},
		{new(bindAddr), ":0", ""},
		{new(bindAddr), "127.0.0.1:65535", ""},
		{new(bindAddr), "[::1]:1", ""},
		{new(bindAddr), "localhost:1", ""},
		{new(bindAddr), "", "is not host:port"},
		{new(bindAddr), "8000", "write :8000"},
		{new(bindAddr), "localhost", "is not host:port"},
		{new(bindAddr), "::1:8000", "is not host:port"},
		{new(bindAddr), ":65536", "0 to 65535"},
		{new(bindAddr), ":-1", "0 to 65535"},
		{new(bindAddr), ":http", `port "http"`},
		{new(bindAddr), "http://x:1", "is not host:port"},
		{new(bindAddr), "a b:1", "forbidden"},
		{new(byteSize), "0", ""},
		{new(byteSize), "65536", ""},
		{new(byteSize), "64KiB", ""},
		{new(byteSize), "2 MiB", ""},
		{new(byteSize), "1GiB", ""},
		{new(byteSize), "10B", ""},
		{new(byteSize), "3GiB", "is not a size"},
		{new(byteSize), "99999999999999999999", "is not a size"},
		{new(byteSize), "1KB", "is not a size"},
		{new(byteSize), "-1", "is not a size"},
		{new(byteSize), "", "is not a size"},
		{new(nodeID), "Node-1_a.b", ""},
		{new(nodeID), "a/b", "'/'"},
		{new(nodeID), strings.Repeat("a", 65), "at most 64"},
		{new(serverURL), "https://h:1/path", ""},
		{new(serverURL), "ws://[::1]:8001", ""},
		{new(serverURL), "h:1", "write it like http://host:port"},
		{new(serverURL), "localhost", "write it like http://host:port"},
		{new(serverURL), "ftp://h", "ftp"},
		{new(serverURL), "http://", "no host"},
		{new(serverURL), "http://h:99999", "1 to 65535"},
		{new(serverURL), "http://h:x", "not a URL"},
		{new(serverURL), "", "http"},
		{new(forwardProxyURL), "", ""},
		{new(forwardProxyURL), "socks5://h:1", ""},
		{new(forwardProxyURL), "ws://h:1", "socks5"},
	} {
		err := tt.into.UnmarshalText([]byte(tt.text))
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%T of %q: error %v, want %q", tt.into, tt.text, err, tt.want)
		}
	}
}

func TestURLErrorsHideThePassword(t *testing.T) {
	for _, text := range []string{"ftp://user:hunter2@h", "http://user:hunter2@", "http://user:hunter2@h:99999", "http://user:hunter2@h:x", "http://user:hunter2@h\x7f"} {
		if err := new(serverURL).UnmarshalText([]byte(text)); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: error %v", text, err)
		}
	}
	if got := serverURL("http://user:hunter2@h").redacted(); strings.Contains(got, "hunter2") {
		t.Errorf("redacted is %s", got)
	}
}

func TestByteSizeUnits(t *testing.T) {
	for text, want := range map[string]byteSize{"5": 5, "5B": 5, "5KiB": 5 << 10, "5MiB": 5 << 20, "1GiB": 1 << 30} {
		var got byteSize
		if err := got.UnmarshalText([]byte(text)); err != nil || got != want {
			t.Errorf("%s is %d, %v; want %d", text, got, err, want)
		}
	}
}
