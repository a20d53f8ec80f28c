package main

import (
	"strings"

	"github.com/alecthomas/kong"
)

// joinDashes joins a flag and a value that begins with a dash, as in
// --proxy.auth.rsa-public-key "-----BEGIN ...": kong would take the value for a
// flag, and print it, though it may be a secret. What is a flag stays one.
func joinDashes(args []string, model *kong.Application) []string {
	takesValue, isFlag := map[string]bool{}, map[string]bool{}
	_ = kong.Visit(model, func(node kong.Visitable, next kong.Next) error {
		if flag, ok := node.(*kong.Flag); ok {
			isFlag["--"+flag.Name] = true
			if flag.Short != 0 {
				isFlag["-"+string(flag.Short)] = true
			}
			takesValue["--"+flag.Name] = !flag.IsBool()
		}
		return next(nil)
	})
	var joined []string
	for i := 0; i < len(args); i++ {
		arg := args[i]
		if arg == "--" {
			return append(joined, args[i:]...)
		}
		if i+1 < len(args) && takesValue[arg] && strings.HasPrefix(args[i+1], "-") {
			if name, _, _ := strings.Cut(args[i+1], "="); args[i+1] != "--" && !isFlag[name] {
				i++
				arg += "=" + args[i]
			}
		}
		joined = append(joined, arg)
	}
	return joined
}
