package main

import (
	"io"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// reloadable says whether a running node, agent or forwarder takes the setting
// over. Certificates, tokens and the
// secret of the webhook are so only where there were some at the start.
func reloadable(command, setting string) bool {
	if setting == logLevelFlag || setting == logSubsystemsFlag {
		return strings.HasPrefix(command, "piko agent") || strings.HasPrefix(command, "piko forward") || strings.HasPrefix(command, "piko server")
	}
	if strings.HasPrefix(command, "piko agent") || strings.HasPrefix(command, "piko forward") {
		return strings.HasPrefix(setting, "connect.tls.") || strings.HasPrefix(setting, "tracing.tls.")
	}
	for _, port := range []string{"proxy.", "upstream.", "admin."} {
		rest, ok := strings.CutPrefix(setting, port)
		switch {
		case !ok:
		case strings.HasPrefix(rest, "auth."), rest == "allow", rest == "deny":
			return true
		case strings.HasPrefix(rest, "tls."):
			return rest != "tls.enabled" && !strings.HasPrefix(rest, "tls.acme.")
		case strings.HasPrefix(rest, "limits."):
			return rest != "limits.buffered-bytes" && rest != "limits.connections" && rest != "limits.connections-per-source"
		}
	}
	return setting == "proxy.domain" || strings.HasPrefix(setting, "events.webhook-secret") || strings.HasPrefix(setting, "cluster.tls.") || strings.HasPrefix(setting, "tracing.tls.")
}

func reloadColumn(command, setting string) string {
	if reloadable(command, setting) {
		return "yes"
	}
	return ""
}

// TestReloadableSettings asks a node for each setting that needs no file
// whether it takes it over, as the reference says it does.
func TestReloadableSettings(t *testing.T) {
	t.Parallel()
	n := startNode(t, nil)
	checked := 0
	for name, applied := range n.changes(t) {
		checked++
		if got, want := slices.Contains(applied, name), reloadable("piko server", name); got != want {
			t.Errorf("--%s: taken over %v, the reference says %v", name, got, want)
		}
	}
	if checked < 50 {
		t.Errorf("%d settings were tried", checked)
	}
}

// changes has a node prepare a change of each setting by itself, and returns
// what it would take over. Settings that need files, or another setting, are left
// out.
func (n *testNode) changes(t *testing.T) map[string][]string {
	ctx, err := parse([]string{"server"}, &process{stdout: io.Discard, stderr: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	next := &rootOf(ctx).Server.Node.serverConfig
	applied := map[string][]string{}
	for _, flag := range ctx.Flags() {
		*next = n.cfg
		if strings.Contains(flag.Name, ".tls.") || strings.Contains(flag.Name, ".auth.") || strings.HasPrefix(flag.Name, "log.") ||
			strings.HasPrefix(flag.Name, "events.webhook-secret") || !differ(flag.Target) {
			continue
		}
		if _, names, err := n.prepare(*next); err == nil {
			applied[flag.Name] = names
		}
	}
	return applied
}

// differ gives a value another one.
func differ(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(!v.Bool())
	case reflect.Int, reflect.Int64:
		v.SetInt(v.Int() + 1)
	case reflect.Float64:
		v.SetFloat(v.Float() + 1)
	case reflect.String:
		v.SetString(v.String() + "x")
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
	default:
		return false
	}
	return true
}
