package main

import (
	"slices"
	"strings"
	"testing"
)

func TestAgentServers(t *testing.T) {
	file := func(text string) string {
		return writeFile(t, "agent.yaml", text+"\nlisteners: [{endpoint_id: e, addr: 1}]\n")
	}
	for _, c := range []struct {
		name        string
		env, args   []string
		urls        []string
		connections connectionCount
	}{
		{"default", nil, nil, []string{"http://localhost:8001"}, 2},
		{"flag", nil, []string{"--connect.url", "https://a:1", "--connections", "3"}, []string{"https://a:1"}, 3},
		{"flag that is repeated", nil, []string{"--connect.url", "https://a:1", "--connect.url=http://b/x"}, []string{"https://a:1", "http://b/x"}, 2},
		{"flag with commas", nil, []string{"--connect.url", "https://a:1, http://b"}, []string{"https://a:1", "http://b"}, 2},
		{"environment", []string{"PIKO_CONNECT_URL=http://a,ws://b", "PIKO_CONNECTIONS=1"}, nil, []string{"http://a", "ws://b"}, 1},
		{"flag before environment", []string{"PIKO_CONNECT_URL=http://a,ws://b"}, []string{"--connect.url", "http://c"}, []string{"http://c"}, 2},
		{"file", nil, []string{"--config.path", file("connect: {url: http://a}\nconnections: 4")}, []string{"http://a"}, 4},
		{"file with a list", nil, []string{"--config.path", file("connect:\n  url:\n    - http://a\n    - http://b")}, []string{"http://a", "http://b"}, 2},
		{"file with commas", nil, []string{"--config.path", file(`connect: {url: "http://a,http://b"}`)}, []string{"http://a", "http://b"}, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg, err := parseAgent(t, c.env, append([]string{"start"}, c.args...)...)
			if err != nil {
				t.Fatal(err)
			}
			if got := cfg.Connect.URL.urls(); !slices.Equal(got, c.urls) || cfg.Connections != c.connections {
				t.Errorf("URLs %q, %d connections", got, cfg.Connections)
			}
			cfg.Listeners = []listenerConfig{{EndpointID: "e", Addr: "3000"}}
			parts, err := cfg.build()
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(parts.client.URLs, c.urls) || parts.client.Connections != int(c.connections) {
				t.Errorf("client has %q, %d connections", parts.client.URLs, parts.client.Connections)
			}
		})
	}
}

func TestAgentServersThatCannotBe(t *testing.T) {
	for _, c := range []struct {
		name string
		args []string
		want []string
	}{
		{"second URL", []string{"--connect.url", "http://a", "--connect.url", "b:8001"}, []string{"--connect.url", "http://host:port"}},
		{"URL after the comma", []string{"--connect.url", "http://a,"}, []string{"--connect.url", "http://host:port"}},
		{"no connections", []string{"--connections", "0"}, []string{"--connections", "from 1 to 16"}},
		{"too many connections", []string{"--connections", "17"}, []string{"--connections", "from 1 to 16"}},
		{"file", []string{"--config.path", writeFile(t, "agent.yaml", "\nconnections: many\n")}, []string{"agent.yaml:2", "connections", `"many"`}},
	} {
		_, err := parseAgent(t, nil, append([]string{"start"}, c.args...)...)
		if err == nil {
			t.Errorf("%s: no error", c.name)
			continue
		}
		for _, want := range c.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: the error %q does not say %s", c.name, err, want)
			}
		}
	}
}

func TestPasswordsOfAgentServersAreNotLogged(t *testing.T) {
	if got := serverURLs("http://u:secret@a,http://b").redacted(); got != "http://u:xxxxx@a,http://b" {
		t.Errorf("redacted: %s", got)
	}
}
