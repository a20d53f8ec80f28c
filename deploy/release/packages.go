package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/goreleaser/nfpm/v2"
	_ "github.com/goreleaser/nfpm/v2/deb"
	"github.com/goreleaser/nfpm/v2/files"
	_ "github.com/goreleaser/nfpm/v2/rpm"
)

// packager is one kind of package and where its distributions want things.
type packager struct {
	name       string // nfpm's
	zshDir     string
	copyright  string // where the licence goes
	extraFiles map[string]string
}

var packagers = []packager{
	{name: "deb", zshDir: "/usr/share/zsh/vendor-completions", copyright: "/usr/share/doc/piko/copyright", extraFiles: map[string]string{
		"/usr/share/lintian/overrides/piko": "deploy/packages/deb/lintian-overrides",
	}},
	{name: "rpm", zshDir: "/usr/share/zsh/site-functions", copyright: "/usr/share/licenses/piko/LICENSE"},
}

// maintainer is who the packages name.
const maintainer = "The piko authors <piko@users.noreply.github.com>"

// writePackages makes the packages of a binary for Linux.
func (s *source) writePackages(b *binary, completions map[string][]byte, out string) error {
	for _, p := range packagers {
		stage, err := os.MkdirTemp("", "piko-package-")
		if err != nil {
			return err
		}
		err = s.writePackage(&p, b, completions, stage, out)
		if err = errors.Join(err, os.RemoveAll(stage)); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	return nil
}

// writePackage makes one; stage is an empty directory for its files.
func (s *source) writePackage(p *packager, b *binary, completions map[string][]byte, stage, out string) error {
	info := &nfpm.Info{
		Name: "piko", Arch: b.arch, Platform: "linux", Version: s.version, Release: "1", Section: "net", Priority: "optional",
		Maintainer: maintainer, License: "MIT", MTime: s.time, DisableGlobbing: true,
		Description: "reverse tunnel that you host yourself\n" +
			"A service that nobody can route to gets an agent beside it, which opens an\n" +
			"outbound connection to a server. Clients send HTTP, gRPC, WebSocket or TCP\n" +
			"traffic to the server, and name the endpoint. One binary is server, agent and\n" +
			"operator's tool.",
	}
	info.RPM.Summary, info.RPM.BuildHost, info.RPM.Group = "Reverse tunnel that you host yourself", "localhost", "System Environment/Daemons"
	info.RPM.Compression, info.Deb.Compression = "gzip:6", "gzip"
	if p.name == "deb" {
		info.Depends = []string{"adduser"}
	} else {
		info.Depends = []string{"/usr/sbin/useradd"}
	}
	pack := &packing{source: s, packager: p, stage: stage, info: info}
	pack.add(b, completions)
	if err := pack.changelog(); err != nil {
		return err
	}
	if pack.err != nil {
		return pack.err
	}
	return makePackage(p.name, info, out)
}

// makePackage lets nfpm write the package under its conventional name.
func makePackage(kind string, info *nfpm.Info, out string) error {
	maker, err := nfpm.Get(kind)
	if err != nil {
		return err
	}
	info = nfpm.WithDefaults(info)
	if err := nfpm.Validate(info); err != nil {
		return err
	}
	f, err := os.Create(filepath.Join(out, maker.ConventionalFileName(info)))
	if err != nil {
		return err
	}
	return errors.Join(maker.Package(info, f), f.Close())
}

// packing collects the files of a package.
type packing struct {
	*source
	*packager
	stage string
	info  *nfpm.Info
	err   error // the first that occurred
}

// add adds all files and scripts.
func (p *packing) add(b *binary, completions map[string][]byte) {
	p.put("/usr/bin/piko", b.content, 0o755)
	for _, unit := range []string{"server", "agent"} {
		p.put("/usr/lib/systemd/system/piko-"+unit+".service", p.unit(unit), 0o644)
		p.config("/etc/piko/"+unit+".yaml", p.read("deploy/packages/"+unit+".yaml"), "piko", 0o640)
		p.config("/etc/piko/"+unit+".env", p.read("deploy/packages/"+unit+".env"), "root", 0o600) // systemd reads it, as root
	}
	p.content(files.TypeDir, "/etc/piko", "", "piko", 0o750)
	for _, dir := range []string{"/usr/share/doc/piko", path.Dir(p.copyright)} { // rpm removes only what is listed
		if !p.info.Contents.ContainsDestination(dir) {
			p.content(files.TypeDir, dir, "", "root", 0o755)
		}
	}
	p.put("/usr/lib/sysusers.d/piko.conf", p.read("deploy/packages/sysusers.conf"), 0o644)
	p.put("/usr/share/bash-completion/completions/piko", completions["bash"], 0o644)
	p.put(p.zshDir+"/_piko", completions["zsh"], 0o644)
	p.put("/usr/share/fish/vendor_completions.d/piko.fish", completions["fish"], 0o644)
	p.put("/usr/share/man/man1/piko.1.gz", p.gzip(p.read("deploy/packages/piko.1")), 0o644)
	p.put("/usr/share/doc/piko/README.md", p.read("README.md"), 0o644)
	p.put("/usr/share/doc/piko/LICENSES-OF-MODULES.gz", p.gzip(licencesText(b.modules)), 0o644)
	p.put(p.copyright, p.read("LICENSE"), 0o644)
	for to, from := range p.extraFiles {
		p.put(to, p.read(from), 0o644)
	}
	script := func(name string) string { return filepath.Join(p.root, "deploy/packages", p.name, name) }
	p.info.Scripts = nfpm.Scripts{PostInstall: script("postinst"), PreRemove: script("prerm"), PostRemove: script("postrm")}
	if p.name == "rpm" {
		p.info.Scripts.PreInstall = script("preinst")
	}
}

// unit is the unit of deploy/systemd as a package has it: its own paths, and a
// user that stays, whom files can be given to.
func (p *packing) unit(name string) []byte {
	text := string(p.read("deploy/systemd/piko-" + name + ".service"))
	_, text, ok := strings.Cut(text, "\n[Unit]\n")
	text = "# Change it with: systemctl edit piko-" + name + "\n[Unit]\n" + text
	for _, change := range [][2]string{
		{"/usr/local/bin/piko", "/usr/bin/piko"},
		{"file:///usr/local/share/doc/piko/README.md", "man:piko(1) file:///usr/share/doc/piko/README.md"},
		{"# A user that exists only while the service runs, and nothing it does not need.\n", "# Nothing that it does not need.\n"},
		{"DynamicUser=yes\n", "User=piko\nGroup=piko\n"},
	} {
		ok = ok && (strings.Contains(text, change[0]) || name == "agent")
		text = strings.ReplaceAll(text, change[0], change[1])
	}
	if !ok || strings.Contains(text, "/usr/local") || !strings.Contains(text, "\nUser=piko\n") {
		p.fail(fmt.Errorf("deploy/systemd/piko-%s.service is not what the packages know how to change", name))
	}
	return []byte(text)
}

// changelog gives the package the one entry that there is to say of it.
func (p *packing) changelog() error {
	text, err := json.Marshal([]any{map[string]any{ // nfpm reads YAML, of which JSON is a part
		"semver": p.plainVersion(), "date": p.time.Format(time.RFC3339), "packager": maintainer,
		"deb":     map[string]any{"urgency": "medium", "distributions": []string{"stable"}},
		"changes": []any{map[string]string{"commit": p.commit, "note": "Version " + p.plainVersion() + "."}},
	}})
	if err != nil {
		return err
	}
	p.info.Changelog = filepath.Join(p.stage, "changelog.yaml")
	return os.WriteFile(p.info.Changelog, text, 0o600)
}

func (p *packing) put(to string, content []byte, mode os.FileMode) {
	p.content(files.TypeFile, to, p.staged(to, content), "root", mode)
}

// config is a file that upgrades leave as the administrator has it.
func (p *packing) config(to string, content []byte, group string, mode os.FileMode) {
	p.content(files.TypeConfigNoReplace, to, p.staged(to, content), group, mode)
}

func (p *packing) content(kind, to, from, group string, mode os.FileMode) {
	p.info.Contents = append(p.info.Contents, &files.Content{
		Type: kind, Source: from, Destination: to,
		FileInfo: &files.ContentFileInfo{Owner: "root", Group: group, Mode: mode, MTime: p.time},
	})
}

// staged writes content to a file, for nfpm to read.
func (p *packing) staged(to string, content []byte) string {
	file := filepath.Join(p.stage, strings.ReplaceAll(to, "/", "_"))
	p.fail(os.WriteFile(file, content, 0o600))
	return file
}

func (p *packing) read(name string) []byte {
	content, err := p.file(name)
	p.fail(err)
	return content
}

func (p *packing) gzip(content []byte) []byte {
	z, err := gzipped(content)
	p.fail(err)
	return z
}

func (p *packing) fail(err error) {
	if p.err == nil {
		p.err = err
	}
}
