package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kong"
)

// A value comes from the command line, else from the environment, else from
// the file, else from the default in its flag's tag. The model of the command
// line is the only list of what there is: --proxy.bind-addr, PIKO_PROXY_BIND_ADDR
// and the file's proxy.bind_addr are one flag, and a list of structs in the file
// (listeners) is decoded by the same code.

// configFlags is the config.* section of commands that take a file. The flags
// of the command that embeds it are the keys of the file.
type configFlags struct {
	Path      string `placeholder:"FILE" group:"Configuration" help:"YAML file with the same names as the flags: --proxy.bind-addr is proxy: and below it bind_addr:. Flags and environment variables win over it."`
	ExpandEnv bool   `group:"Configuration" help:"Replace $${VAR} and $${VAR:default} in the file by environment variables; $$$$ is a literal $$."`
}

const (
	configPathFlag   = "config.path"
	configExpandFlag = "config.expand-env"

	envPrefix     = "PIKO_"
	maxConfigFile = 1 << 20 // bytes
)

// flagOnly is the tag of flags that make no sense in an environment or a file.
const flagOnly = "flagonly"

// listTag is the tag of flags whose value in the file may be a list and may be a
// single value.
const listTag = "list"

// fileKeyTag is the tag of flags whose key in the file is another: one that is a
// section's switch.
const fileKeyTag = "filekey"

// envName is the environment variable of a flag.
func envName(flag *kong.Flag) string {
	return envPrefix + strings.ToUpper(strings.NewReplacer(".", "_", "-", "_").Replace(flag.Name))
}

// fileKey is the key of a flag in the file, with dots between the levels.
func fileKey(flag *kong.Flag) string {
	if key := flag.Tag.Get(fileKeyTag); key != "" {
		return key
	}
	return strings.ReplaceAll(flag.Name, "-", "_")
}

// fileSections is a command whose file has keys that are no flags.
type fileSections interface {
	sections() []string
	// decodeSection takes over the value of one of the sections.
	decodeSection(path, key string, n *yamlNode) error
}

// settings gives kong the values that the command line does not: a
// kong.Resolver. It collects what is wrong instead of returning it, so that one
// run shows every mistake. Owned by the goroutine that parses.
type settings struct {
	getenv func(string) (string, bool) // nil: no environment
	values map[*kong.Flag]fileValue
	loaded bool
	errs   []error
}

// fileValue is a value of the file and the place to blame for it.
type fileValue struct {
	path, key string
	node      *yamlNode
}

// Resolve implements kong.Resolver; it is called for every flag of the selected
// command that is not on the command line. A nil value leaves the default.
func (s *settings) Resolve(ctx *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	if !s.loaded {
		s.loaded = true
		if err := s.load(ctx); err != nil {
			s.errs = append(s.errs, err)
		}
	}
	value, err := s.lookup(flag)
	if err != nil {
		s.errs = append(s.errs, err)
		return nil, nil
	}
	return value, nil
}

// Validate implements kong.Resolver.
func (s *settings) Validate(*kong.Application) error { return s.err() }

// err is everything that was wrong.
func (s *settings) err() error { return errors.Join(s.errs...) }

func (s *settings) lookup(flag *kong.Flag) (any, error) {
	if flag.Tag.Has(flagOnly) {
		return nil, nil
	}
	if s.getenv != nil {
		// Empty is unset: a compose file passes on variables that nobody gave.
		if text, _ := s.getenv(envName(flag)); text != "" {
			if err := tryDecode(flag, text); err != nil {
				return nil, fmt.Errorf("environment variable %s: %w", envName(flag), err)
			}
			return text, nil
		}
	}
	v, ok := s.values[flag]
	if !ok {
		return nil, nil
	}
	value, err := v.value(flag)
	if err == nil && value != nil {
		err = tryDecode(flag, value)
	}
	if err != nil {
		return nil, &lineError{v.path, v.node.line, fmt.Errorf("%s: %w", v.key, err)}
	}
	return value, nil
}

// value is what kong gets: text, or a list for a flag that is one; nil for an
// empty key, which is as good as none.
func (v fileValue) value(flag *kong.Flag) (any, error) {
	switch {
	case v.node.kind == yamlNull:
		return nil, nil
	case flag.IsSlice() && v.node.kind == yamlScalar && flag.Tag.Has(listTag):
		return []any{v.node.text}, nil
	case flag.IsSlice(), v.node.kind == yamlList && flag.Tag.Has(listTag):
		if v.node.kind != yamlList {
			return nil, fmt.Errorf("found %v where a list is expected; write it like [%s]", v.node.kind, v.node.text)
		}
		list := make([]any, 0, len(v.node.items))
		for _, item := range v.node.items {
			if item.kind != yamlScalar {
				return nil, fmt.Errorf("found %v inside the list where a value is expected", item.kind)
			}
			list = append(list, item.text)
		}
		return list, nil
	case v.node.kind != yamlScalar:
		return nil, fmt.Errorf("found %v where one value is expected", v.node.kind)
	}
	return v.node.text, nil
}

// tryDecode says what is wrong with a value while its source is known.
func tryDecode(flag *kong.Flag, value any) error {
	scratch := reflect.New(flag.Target.Type()).Elem()
	scan := kong.Scan().PushTyped(value, kong.FlagValueToken)
	if err := flag.Mapper.Decode(&kong.DecodeContext{Value: flag.Value, Scan: scan}, scratch); err != nil {
		// For a list kong repeats all of it first, and in it what may be a secret.
		if text, ok := strings.CutPrefix(err.Error(), fmt.Sprintf("%#v -> *%v: ", value, flag.Target.Type())); ok {
			return errors.New(text)
		}
		return err
	}
	if text, ok := value.(string); ok && flag.Enum != "" && !flag.EnumMap()[text] {
		return fmt.Errorf("%q is not one of %s", text, strings.Join(flag.EnumSlice(), ", "))
	}
	return nil
}

// load reads the file of the selected command, if it takes one and was given one.
func (s *settings) load(ctx *kong.Context) error {
	for _, p := range ctx.Path {
		i := slices.IndexFunc(p.Flags, func(f *kong.Flag) bool { return f.Name == configPathFlag && !f.Tag.Has(flagOnly) })
		if i < 0 {
			continue
		}
		path := s.early(ctx, p.Flags[i])
		if path == "" {
			return nil
		}
		j := slices.IndexFunc(p.Flags, func(f *kong.Flag) bool { return f.Name == configExpandFlag })
		root, err := s.read(path, isTrue(s.early(ctx, p.Flags[j])))
		if err != nil {
			return err
		}
		sections, _ := p.Node().Target.Addr().Interface().(fileSections)
		s.values, err = matchKeys(path, "", root, p.Flags, sections)
		return err
	}
	return nil
}

// early is a flag's value before kong has resolved it: the command line's, else
// the environment's.
func (s *settings) early(ctx *kong.Context, flag *kong.Flag) string {
	if text := fmt.Sprint(ctx.FlagValue(flag)); text != "" && text != "false" {
		return text
	}
	if s.getenv != nil {
		text, _ := s.getenv(envName(flag))
		return text
	}
	return ""
}

func isTrue(text string) bool {
	return slices.Contains([]string{"true", "yes", "on", "1"}, strings.ToLower(text))
}

// read reads the file, at most maxConfigFile of it.
func (s *settings) read(path string, expand bool) (*yamlNode, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read --%s: %w", configPathFlag, err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxConfigFile+1))
	if err != nil {
		return nil, fmt.Errorf("read --%s: %w", configPathFlag, err)
	}
	if len(text) > maxConfigFile {
		return nil, fmt.Errorf("read --%s: %s is larger than 1 MiB", configPathFlag, path)
	}
	if expand {
		if text, err = expandEnv(path, text, s.getenv); err != nil {
			return nil, err
		}
	}
	return parseYAML(path, text)
}

// decodeStruct fills the struct behind target, whose fields are tagged like a
// command's, from a mapping of the file: one entry of a list. key is what the
// errors call it.
func decodeStruct(path, key string, n *yamlNode, target any) error {
	if n.kind != yamlMapping {
		return &lineError{path, n.line, fmt.Errorf("%s: found %v where a section is expected", key, n.kind)}
	}
	s := &settings{loaded: true}
	k, err := kong.New(target, kong.NoDefaultHelp(), kong.Resolvers(s), durationMapper())
	if err != nil {
		return err // a mistake in a tag, which every test of the listeners finds
	}
	if s.values, err = matchKeys(path, key+".", n, k.Model.Flags, nil); err != nil {
		return err
	}
	_, err = k.Parse(nil)
	return cmp.Or(s.err(), err)
}

// decodeList is the value of a section that is a list: each item a T that passes
// check, whose errors begin with the key. what is the word for an item.
func decodeList[T any](path, key, what string, n *yamlNode, check func(*T) error) ([]T, error) {
	if n.kind == yamlNull {
		return nil, nil
	}
	if n.kind != yamlList {
		return nil, &lineError{path, n.line, fmt.Errorf("%s: found %v where a list is expected; begin each %s with a dash", key, n.kind, what)}
	}
	var list []T
	var errs []error
	for i, item := range n.items {
		var v T
		name := fmt.Sprintf("%s[%d]", key, i)
		if err := decodeStruct(path, name, item, &v); err != nil {
			errs = append(errs, err)
			continue
		}
		if err := check(&v); err != nil {
			errs = append(errs, &lineError{path, item.line, fmt.Errorf("%s.%w", name, err)})
		}
		list = append(list, v)
	}
	return list, errors.Join(errs...)
}

func durationMapper() kong.Option {
	return kong.TypeMapper(reflect.TypeFor[time.Duration](), kong.MapperFunc(decodeDuration))
}
