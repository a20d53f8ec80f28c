//go:build e2e

package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestRedis uses redis-cli and redis-benchmark: pipelines, values of megabytes, subscriptions
// that the server speaks on by itself, and hundreds of connections.
func TestRedis(t *testing.T) {
	overEach(t, func(t *testing.T, w *way) {
		server, cli, benchmark := tool(t, "redis-server"), tool(t, "redis-cli"), tool(t, "redis-benchmark")
		service := freeAddr(t)
		p := start(t, "redis", nil, server, "--bind", "127.0.0.1", "--port", portOf(service), "--save", "", "--appendonly", "no", "--dir", t.TempDir())
		waitListening(t, p, service)
		w.agentTCP(t, "redis", service, "--access-log.disable")
		addr, _ := w.forwarding(t, "redis")
		redis := func(stdin string, args ...string) string {
			t.Helper()
			r := run(t, 60*time.Second, strings.NewReader(stdin), cli, append([]string{"-p", portOf(addr)}, args...)...)
			if r.code != 0 {
				t.Errorf("redis-cli %.100q: status %d, %.200q\n%s", args, r.code, r.stdout, r.stderr)
			}
			return strings.TrimSuffix(r.stdout, "\n")
		}
		if got := redis("", "SET", "key", "value"); got != "OK" {
			t.Errorf("SET: %q", got)
		}
		large := strings.Repeat("0123456789abcdef", 1<<18) // 4 MiB
		if got := redis(large, "-x", "SET", "large"); got != "OK" {
			t.Errorf("SET of 4 MiB: %.100q", got)
		}
		if got := redis("", "GET", "large"); got != large {
			t.Errorf("GET of 4 MiB: %d bytes", len(got))
		}
		var commands strings.Builder
		for i := range 10000 {
			fmt.Fprintf(&commands, "SET key:%d %d\r\n", i, i)
		}
		if got := redis(commands.String(), "--pipe"); !strings.Contains(got, "errors: 0, replies: 10000") {
			t.Errorf("a pipeline of 10,000: %q", got)
		}

		subscriber := start(t, "subscriber", nil, cli, "-p", portOf(addr), "SUBSCRIBE", "news")
		eventually(t, 20*time.Second, "the subscription hears", func() error {
			redis("", "PUBLISH", "news", "hello subscriber")
			if !bytes.Contains(readFile(t, subscriber.stdout), []byte("hello subscriber")) {
				return errNotYet
			}
			return nil
		})

		r := run(t, 120*time.Second, nil, benchmark, "-p", portOf(addr), "-c", "50", "-n", "5000", "-q", "-t", "ping,set,get,lrange_100")
		if r.code != 0 || strings.Count(r.stdout, "requests per second") < 4 || strings.Contains(r.stdout+r.stderr, "rror") {
			t.Errorf("redis-benchmark: status %d\n%s%s", r.code, r.stdout, r.stderr)
		}
		// Each request on a connection of its own.
		r = run(t, 120*time.Second, nil, benchmark, "-p", portOf(addr), "-c", "20", "-n", "500", "-q", "-k", "0", "-t", "get")
		if r.code != 0 || !strings.Contains(r.stdout, "requests per second") {
			t.Errorf("redis-benchmark without keep-alive: status %d\n%s%s", r.code, r.stdout, r.stderr)
		}
	})
}

// postgres is a database server of the test's own.
type postgres struct {
	addr, psql string
}

// startDatabase initializes and starts PostgreSQL, as another user if we are root, whom it
// refuses.
func startDatabase(t *testing.T) *postgres {
	t.Helper()
	psql := tool(t, "psql")
	bins, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	if len(bins) == 0 {
		bins = []string{filepath.Dir(tool(t, "initdb"))}
	}
	bin := bins[len(bins)-1]
	dir, err := os.MkdirTemp("", "piko-postgres-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	var as []string
	if os.Getuid() == 0 {
		uid, gid := idsOf(t, "postgres")
		if err := os.Chown(dir, uid, gid); err != nil {
			t.Fatal(err)
		}
		as = []string{tool(t, "setpriv"), "--reuid=postgres", "--regid=postgres", "--init-groups", "--pdeathsig=KILL"}
	}
	data := filepath.Join(dir, "data")
	command := append(as, filepath.Join(bin, "initdb"), "-D", data, "-U", "piko", "-A", "trust", "-N", "--locale=C", "-E", "UTF8")
	if r := run(t, 90*time.Second, nil, command[0], command[1:]...); r.code != 0 {
		t.Fatalf("initdb: %s%s", r.stdout, r.stderr)
	}
	addr := freeAddr(t)
	command = append(as, filepath.Join(bin, "postgres"), "-D", data, "-k", dir, "-h", "127.0.0.1", "-p", portOf(addr), "-F")
	p := start(t, "postgres", nil, command[0], command[1:]...)
	t.Cleanup(func() {
		p.signal(t, syscall.SIGINT) // killed, it would leave its shared memory
		p.wait(t, 20*time.Second)
	})
	waitListening(t, p, addr)
	return &postgres{addr, psql}
}

// idsOf are those of a user of this machine.
func idsOf(t testing.TB, name string) (uid, gid int) {
	t.Helper()
	u, err := user.Lookup(name)
	if err != nil {
		t.Fatal(err)
	}
	uid, _ = strconv.Atoi(u.Uid)
	gid, _ = strconv.Atoi(u.Gid)
	return uid, gid
}

// TestPostgres runs transactions, COPY both ways, LISTEN and NOTIFY, and pg_dump-sized answers.
func TestPostgres(t *testing.T) {
	overEach(t, func(t *testing.T, w *way) {
		db := startDatabase(t)
		w.agentTCP(t, "db", db.addr)
		addr, _ := w.forwarding(t, "db")
		sql := func(commands string) string {
			t.Helper()
			r := run(t, 90*time.Second, strings.NewReader(commands), db.psql,
				"-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-p", portOf(addr), "-U", "piko", "postgres")
			if r.code != 0 {
				t.Errorf("psql: status %d\n%s", r.code, r.stderr)
			}
			return r.stdout
		}
		eventually(t, 30*time.Second, "the database is up", func() error {
			r := run(t, 30*time.Second, nil, db.psql, "-X", "-h", "127.0.0.1", "-p", portOf(db.addr), "-U", "piko", "-c", "SELECT 1", "postgres")
			if r.code != 0 {
				return fmt.Errorf("%s", r.stderr)
			}
			return nil
		})
		var copyIn strings.Builder
		copyIn.WriteString("CREATE TABLE t (id int, name text);\nCOPY t FROM stdin;\n")
		for i := range 50000 {
			fmt.Fprintf(&copyIn, "%d\tname %d\n", i, i)
		}
		copyIn.WriteString("\\.\nBEGIN; DELETE FROM t WHERE id >= 40000; ROLLBACK;\nSELECT count(*), sum(id) FROM t;\n")
		if got := sql(copyIn.String()); got != "50000|1249975000\n" {
			t.Errorf("COPY of 50,000 rows: %q", got)
		}
		if got := sql("COPY t TO stdout;\n"); strings.Count(got, "\n") != 50000 || !strings.HasSuffix(got, "49999\tname 49999\n") {
			t.Errorf("COPY back: %d lines", strings.Count(got, "\n"))
		}
		if got := sql("LISTEN news;\nNOTIFY news, 'hello';\nSELECT pg_sleep(0.1);\n"); !strings.Contains(got, "hello") {
			t.Errorf("NOTIFY: %q", got)
		}
	})
}

// TestSSH runs a command, copies files both ways with scp, and has a terminal that answers.
func TestSSH(t *testing.T) {
	overEach(t, func(t *testing.T, w *way) {
		sshd, ssh, scp, keygen := tool(t, "sshd"), tool(t, "ssh"), tool(t, "scp"), tool(t, "ssh-keygen")
		if os.Getuid() == 0 {
			os.MkdirAll("/run/sshd", 0o755) // it wants that of root
		}
		dir, service := t.TempDir(), freeAddr(t)
		for _, name := range []string{"host", "user"} {
			if r := run(t, 30*time.Second, nil, keygen, "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, name)); r.code != 0 {
				t.Fatalf("ssh-keygen: %s", r.stderr)
			}
		}
		p := start(t, "sshd", nil, sshd, "-D", "-e", "-f", writeFile(t, dir, "sshd_config", fmt.Sprintf(`
ListenAddress %s
HostKey %[2]s/host
AuthorizedKeysFile %[2]s/user.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin prohibit-password
Subsystem sftp internal-sftp
`, service, dir)))
		waitListening(t, p, service)
		w.agentTCP(t, "ssh", service)
		addr, _ := w.forwarding(t, "ssh")
		options := []string{"-F", "none", "-i", filepath.Join(dir, "user"), "-o", "StrictHostKeyChecking=no",
			"-o", "UserKnownHostsFile=" + filepath.Join(dir, "known_hosts"), "-o", "BatchMode=yes", "-o", "LogLevel=ERROR", "-o", "IdentitiesOnly=yes"}

		r := run(t, 60*time.Second, strings.NewReader("over ssh"), ssh, append(options, "-p", portOf(addr), "127.0.0.1", "cat; echo; exit 7")...)
		if r.code != 7 || r.stdout != "over ssh\n" {
			t.Errorf("ssh: status %d, %q\n%s", r.code, r.stdout, r.stderr)
		}
		file := writeFile(t, dir, "file", string(randomFile()))
		for _, way := range [][2]string{{file, "127.0.0.1:" + file + ".there"}, {"127.0.0.1:" + file + ".there", file + ".back"}} {
			if r := run(t, 90*time.Second, nil, scp, append(options, "-P", portOf(addr), way[0], way[1])...); r.code != 0 {
				t.Errorf("scp %s %s: status %d\n%s", way[0], way[1], r.code, r.stderr)
			}
		}
		if back := readFile(t, file+".back"); !bytes.Equal(back, randomFile()) {
			t.Errorf("the file came back with %d bytes, or others", len(back))
		}
	})
}
