package tunnel

import (
	"runtime/debug"
	"strings"
	"sync"
)

// product names piko in the User-Agent of a handshake; the version follows.
const product = "piko"

// userAgent is what a handshake says of who sends it: for the node's operators
// alone, nothing depends on it.
var userAgent = sync.OnceValue(func() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return product
	}
	version := info.Main.Version
	for _, m := range info.Deps { // of a program that uses the SDK
		if m.Path == product {
			version = m.Version
		}
	}
	if version = strings.Trim(version, "()"); !isToken(version) {
		return product
	}
	return product + "/" + version
})

// readVersion reads the version of a User-Agent of ours; "" for all others.
func readVersion(agent string) string {
	version, ok := strings.CutPrefix(agent, product+"/")
	if !ok || !isToken(version) {
		return ""
	}
	return version
}
