package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"slices"

	"github.com/alecthomas/kong"

	"piko/certs"
)

// clientTLSConfig is a tls section of something that piko dials.
type clientTLSConfig struct {
	Cert               string `type:"filepath" placeholder:"FILE" help:"PEM certificate to show to the other side, when it asks for one."`
	Key                string `type:"filepath" placeholder:"FILE" help:"PEM private key of the certificate."`
	RootCAs            string `name:"root-cas" placeholder:"FILE" help:"PEM certificates of the authorities to trust, in place of the system's."`
	ServerName         string `placeholder:"HOST" help:"Name that the other side's certificate has to be for, in place of the host that is dialled."`
	InsecureSkipVerify bool   `help:"Trust whoever answers. For tests only: anybody on the way can read and change everything."`
}

// options is what the package calls it.
func (c clientTLSConfig) options() certs.ClientOptions {
	return certs.ClientOptions{
		Pair:               certs.Pair{Cert: c.Cert, Key: c.Key},
		RootCAs:            c.RootCAs,
		ServerName:         c.ServerName,
		InsecureSkipVerify: c.InsecureSkipVerify,
	}
}

// check says which option is missing. section is what errors put before the
// names of the options, such as "--connect.tls.".
func (c clientTLSConfig) check(section string) error {
	switch {
	case c.Cert == "" && c.Key != "":
		return fmt.Errorf("%scert: missing; %skey needs it", section, section)
	case c.Cert != "" && c.Key == "":
		return fmt.Errorf("%skey: missing; %scert needs it", section, section)
	}
	return nil
}

// load reads the files. It returns nil when nothing is set. section is as for
// check.
func (c clientTLSConfig) load(section string) (*certs.Client, error) {
	if c == (clientTLSConfig{}) {
		return nil, nil
	}
	if err := c.check(section); err != nil {
		return nil, &usageError{err: err}
	}
	loaded, err := certs.NewClient(c.options())
	if err != nil {
		return nil, clientTLSError(section, err)
	}
	return loaded, nil
}

// prepare is that of running, with next in place of c. What it names are the
// options below name, such as "connect.tls".
func (c clientTLSConfig) prepare(running *certs.Client, next clientTLSConfig, name string) (commit func(), applied []string, err error) {
	if running == nil || next == (clientTLSConfig{}) {
		return nil, nil, nil // from none to some is another way to connect: that needs a restart
	}
	if err := next.check("--" + name + "."); err != nil {
		return nil, nil, &usageError{err: err}
	}
	commit, changed, err := running.Prepare(next.options())
	if err != nil {
		return nil, nil, clientTLSError("--"+name+".", err)
	}
	for option, is := range map[string]bool{
		"cert":                 changed.Pairs || c.Cert != next.Cert,
		"key":                  c.Key != next.Key,
		"root-cas":             changed.Authorities || c.RootCAs != next.RootCAs,
		"server-name":          c.ServerName != next.ServerName,
		"insecure-skip-verify": c.InsecureSkipVerify != next.InsecureSkipVerify,
	} {
		if is {
			applied = append(applied, name+"."+option)
		}
	}
	return commit, applied, nil
}

// files are those that the section names.
func (c clientTLSConfig) files() []string { return named(c.Cert, c.Key, c.RootCAs) }

// named leaves out what is not given.
func named(files ...string) []string {
	return slices.DeleteFunc(files, func(f string) bool { return f == "" })
}

// config is what the next connection is made with; nil for the defaults.
func tlsSource(c *certs.Client) func() *tls.Config {
	if c == nil {
		return nil
	}
	return c.Config
}

func clientTLSError(section string, err error) error {
	option := "cert and key"
	if certs.IsAuthorities(err) {
		option = "root-cas"
	}
	return &usageError{err: fmt.Errorf("%s%s: %w", section, option, err)}
}

// serverTLSConfig is the tls section of a port.
type serverTLSConfig struct {
	Enabled    bool   `help:"Speak TLS on this port; cert and key say so by themselves."`
	Cert       paths  `list:"" placeholder:"FILE" help:"PEM certificate to show to clients, with those of intermediate authorities behind it. TLS is on when it is given. May be repeated, each with a key: which is shown is a matter of the host that the client names, and the first is for all others."`
	Key        paths  `list:"" placeholder:"FILE" help:"PEM private key of the certificate. May be repeated, in the order of the certificates."`
	Dir        string `placeholder:"DIR" help:"Directory with more certificates: NAME.crt or NAME.pem with NAME.key, and directories that hold tls.crt and tls.key, or fullchain.pem and privkey.pem."`
	ClientCAs  string `name:"client-cas" placeholder:"FILE" help:"PEM certificates of authorities: only clients with a certificate of one of them get in."`
	MinVersion string `default:"1.2" enum:"1.2,1.3" help:"Oldest version of TLS that clients may speak."`

	others bool        // there are certificates that no file is named for
	acme   *certs.ACME // from which they are; nil when nothing is loaded
}

// tlsVersions are the values of min-version.
var tlsVersions = map[string]uint16{"": tls.VersionTLS12, "1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13}

// on says whether the port speaks TLS.
func (c serverTLSConfig) on() bool { return c.Enabled || c.others || !c.Cert.empty() || c.Dir != "" }

// check says which option is missing. section is as for a client's.
func (c serverTLSConfig) check(section string) error {
	certs, keys := len(c.Cert.list), len(c.Key.list)
	switch {
	case certs == 0 && keys > 0:
		return fmt.Errorf("%scert: missing; %skey needs it", section, section)
	case certs > 0 && keys == 0:
		return fmt.Errorf("%skey: missing; %scert needs it", section, section)
	case certs != keys:
		return fmt.Errorf("%scert and %skey: %d and %d files; give a key for each certificate, in the same order", section, section, certs, keys)
	case certs == 0 && c.Dir == "" && !c.others && c.Enabled:
		return fmt.Errorf("%scert and %skey: missing; %senabled needs them", section, section, section)
	case c.ClientCAs != "" && !c.on():
		return fmt.Errorf("%scert and %skey: missing; %sclient-cas needs them: without TLS nobody can show a certificate", section, section, section)
	}
	return nil
}

// options is what the package calls it. protocols are those of ALPN.
func (c serverTLSConfig) options(protocols ...string) certs.ServerOptions {
	opt := certs.ServerOptions{Dir: c.Dir, ACME: c.acme, ClientCAs: c.ClientCAs, MinVersion: tlsVersions[c.MinVersion], NextProtos: protocols}
	for i, cert := range c.Cert.list {
		opt.Pairs = append(opt.Pairs, certs.Pair{Cert: cert, Key: c.Key.list[i]})
	}
	return opt
}

// load reads the files. It returns nil when the port speaks no TLS. section is
// what errors put before the names of the options, such as "--proxy.tls.".
func (c serverTLSConfig) load(section string, protocols ...string) (*certs.Server, error) {
	if err := c.check(section); err != nil {
		return nil, &usageError{err: err}
	}
	if !c.on() {
		return nil, nil
	}
	loaded, err := certs.NewServer(c.options(protocols...))
	if err != nil {
		return nil, serverTLSError(section, err)
	}
	return loaded, nil
}

// prepare is that of running, with next in place of c. What it names are the
// options below name, such as "proxy.tls".
func (c serverTLSConfig) prepare(running *certs.Server, next serverTLSConfig, name string, protocols ...string) (commit func(), applied []string, err error) {
	if running == nil || !next.on() {
		return nil, nil, nil // whether a port speaks TLS is for a restart
	}
	if err := next.check("--" + name + "."); err != nil {
		return nil, nil, &usageError{err: err}
	}
	commit, changed, err := running.Prepare(next.options(protocols...))
	if err != nil {
		return nil, nil, serverTLSError("--"+name+".", err)
	}
	for option, is := range map[string]bool{
		"cert":        changed.Pairs && !next.Cert.empty() || !slices.Equal(c.Cert.list, next.Cert.list),
		"key":         !slices.Equal(c.Key.list, next.Key.list),
		"dir":         changed.Pairs && next.Cert.empty() || c.Dir != next.Dir,
		"client-cas":  changed.Authorities || c.ClientCAs != next.ClientCAs,
		"min-version": changed.Version || c.MinVersion != next.MinVersion,
		"enabled":     c.Enabled != next.Enabled,
	} {
		if is {
			applied = append(applied, name+"."+option)
		}
	}
	return commit, applied, nil
}

// files are those that the section names, and those in its directory.
func (c serverTLSConfig) files() []string {
	files := append(slices.Concat(c.Cert.list, c.Key.list), named(c.ClientCAs)...)
	if c.Dir == "" {
		return files
	}
	pairs, err := certs.PairsOf(c.Dir)
	if err != nil {
		return append(files, c.Dir)
	}
	for _, p := range pairs {
		files = append(files, p.Cert, p.Key)
	}
	return files
}

func serverTLSError(section string, err error) error {
	option := "cert and key"
	if certs.IsAuthorities(err) {
		option = "client-cas"
	}
	return &usageError{err: fmt.Errorf("%s%s: %w", section, option, err)}
}

// paths are the names of files: one, or a list.
type paths struct{ list []string }

func (p paths) empty() bool { return len(p.list) == 0 }

// Decode is kong's: each use of the flag adds names, and so does a comma. A list
// is the file's.
func (p *paths) Decode(ctx *kong.DecodeContext) error {
	token, err := ctx.Scan.PopValue("file")
	if err != nil {
		return err
	}
	switch value := token.Value.(type) {
	case []any:
		for _, item := range value {
			p.list = append(p.list, fmt.Sprint(item))
		}
	default:
		if text := fmt.Sprint(value); text != "" {
			p.list = append(p.list, kong.SplitEscaped(text, ',')...)
		}
	}
	if slices.Contains(p.list, "") {
		return errors.New("the name of a file is empty; take it away")
	}
	return nil
}
