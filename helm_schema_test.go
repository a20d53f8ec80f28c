package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"
)

const (
	chartSchema   = "deploy/helm/piko/values.schema.json"
	chartReloaded = "deploy/helm/piko/files/reloaded.json"
)

// TestConfigurationReferenceOfChart holds what the Helm chart knows of the
// settings: the schema of the two configuration files in its values, and the
// keys that are taken over without a restart. Both are made of the model of the
// command line; see TestConfigurationReference for how.
func TestConfigurationReferenceOfChart(t *testing.T) {
	t.Parallel()
	k, err := newParser(&process{stdout: io.Discard, stderr: io.Discard}, &settings{})
	if err != nil {
		t.Fatal(err)
	}
	server, agent := schemaTree{}, schemaTree{}
	reloaded := map[string][]string{"server": {"proxy.tenants", "upstream.tenants"}, "agent": {"listeners"}}
	for command, tree := range map[string]schemaTree{"server": server, "agent start": agent} {
		i := slices.IndexFunc(k.Model.Leaves(false), func(n *kong.Node) bool { return visible(n).FullPath() == "piko "+command })
		leaf := k.Model.Leaves(false)[i]
		for flag := range keyedFlags(leaf) {
			if flag.Tag.Has(flagOnly) || flag.Name == configPathFlag || flag.Name == configExpandFlag {
				continue
			}
			tree.set(fileKey(flag), flagSchema(flag))
			if name, _, _ := strings.Cut(command, " "); reloadable(leaf.FullPath(), flag.Name) {
				reloaded[name] = append(reloaded[name], fileKey(flag))
			}
		}
	}
	tenants := map[string]any{"type": "array", "items": map[string]any{"type": "object"}}
	server.set("proxy.tenants", tenants)
	server.set("upstream.tenants", tenants)
	agent.set("listeners", map[string]any{"type": "array", "items": structSchema(t, &listenerConfig{}).schema()})
	for _, keys := range reloaded {
		slices.Sort(keys)
	}

	was, err := os.ReadFile(chartSchema)
	if err != nil {
		t.Fatal(err)
	}
	text := replaceValue(t, was, "serverConfig", server.schema())
	text = replaceValue(t, text, "agentConfig", agent.schema())
	golden(t, chartSchema, text)
	golden(t, chartReloaded, []byte(pretty(reloaded, 0)+"\n"))
}

// golden compares, or writes with -update.
func golden(t *testing.T, file string, now []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, now, 0o644); err != nil {
			t.Fatal(err)
		}
	} else if was, err := os.ReadFile(file); err != nil || !bytes.Equal(was, now) {
		t.Errorf("%s is out of date (%v); run go test -run TestConfigurationReference -update .", file, err)
	}
}

// schemaTree is a section of a file: its keys, and schemas or further trees.
type schemaTree map[string]any

// set sets the schema of a key with dots.
func (s schemaTree) set(key string, schema any) {
	section, rest, nested := strings.Cut(key, ".")
	if !nested {
		s[section] = schema
		return
	}
	below, ok := s[section].(schemaTree)
	if !ok {
		below = schemaTree{}
		s[section] = below
	}
	below.set(rest, schema)
}

func (s schemaTree) schema() map[string]any {
	properties := map[string]any{}
	for key, value := range s {
		if below, ok := value.(schemaTree); ok {
			value = below.schema()
		}
		properties[key] = value
	}
	return map[string]any{"type": "object", "additionalProperties": false, "properties": properties}
}

// structSchema is that of an entry of a list in the file.
func structSchema(t *testing.T, item any) schemaTree {
	t.Helper()
	k, err := kong.New(item, kong.NoDefaultHelp(), durationMapper())
	if err != nil {
		t.Fatal(err)
	}
	tree := schemaTree{}
	for _, flag := range k.Model.Flags {
		tree.set(fileKey(flag), flagSchema(flag))
	}
	return tree
}

// flagSchema is what a value in the file may be, as far as a schema can tell.
func flagSchema(flag *kong.Flag) any {
	ref := func(name string) any { return map[string]any{"$ref": "#/$defs/" + name} }
	switch kind := flag.Target.Kind(); {
	case flag.Enum != "":
		return map[string]any{"enum": flag.EnumSlice()}
	case flag.IsSlice() && !flag.Tag.Has(listTag):
		return ref("configList")
	case flag.Tag.Has(listTag):
		return ref("configValues")
	case flag.IsBool():
		return map[string]any{"type": "boolean"}
	case flag.Target.Type() == reflect.TypeFor[time.Duration]():
		return ref("configDuration")
	case flag.Target.Type() == reflect.TypeFor[int]():
		return map[string]any{"type": "integer"}
	case kind == reflect.Int, kind == reflect.Int64, kind == reflect.Float64:
		return map[string]any{"type": []string{"number", "string"}}
	default:
		return ref("configValue")
	}
}

// replaceValue replaces the value of a key of $defs and leaves all else as it is.
func replaceValue(t *testing.T, text []byte, key string, value any) []byte {
	t.Helper()
	before, rest, found := bytes.Cut(text, fmt.Appendf(nil, "\n    %q: ", key))
	if !found {
		t.Fatalf("%s has no %s", chartSchema, key)
	}
	d := json.NewDecoder(bytes.NewReader(rest))
	var old json.RawMessage
	if err := d.Decode(&old); err != nil {
		t.Fatal(err)
	}
	return fmt.Appendf(nil, "%s\n    %q: %s%s", before, key, pretty(value, 4), rest[d.InputOffset():])
}

// pretty is JSON with as many lines as it takes.
func pretty(v any, indent int) string {
	flat, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	if len(flat)+indent <= 120 {
		return string(flat)
	}
	pad := strings.Repeat(" ", indent)
	var lines []string
	switch v := reflect.ValueOf(v); v.Kind() {
	case reflect.Map:
		values := map[string]string{}
		for _, key := range v.MapKeys() {
			values[key.String()] = pretty(v.MapIndex(key).Interface(), indent+2)
		}
		for _, key := range slices.Sorted(maps.Keys(values)) {
			lines = append(lines, fmt.Sprintf("%s  %q: %s", pad, key, values[key]))
		}
		return "{\n" + strings.Join(lines, ",\n") + "\n" + pad + "}"
	case reflect.Slice:
		for i := range v.Len() {
			lines = append(lines, pad+"  "+pretty(v.Index(i).Interface(), indent+2))
		}
		return "[\n" + strings.Join(lines, ",\n") + "\n" + pad + "]"
	}
	return string(flat)
}
