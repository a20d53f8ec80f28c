package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// prepare writes the script of a page, with a file for each step, and returns the directory
// that it starts in.
func (r *pageRun) prepare() (work string, err error) {
	work = filepath.Join(r.dir, "work")
	for _, dir := range []string{work, filepath.Join(r.dir, "home"), filepath.Join(r.dir, "tmp")} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return "", err
		}
	}
	if r.page.checkout {
		if err := r.copyCheckout(work); err != nil {
			return "", err
		}
	}
	files := map[string]string{
		"prelude.sh": prelude,
		"page.sh":    r.script(),
		// A page shows curl as people type it; here a status of 400 and above is a failure.
		"home/.curlrc": "silent\nshow-error\nfail-with-body\n",
	}
	for i, s := range r.steps {
		if s.kind != runBackground {
			files[fmt.Sprintf("step.%d", i)] = s.text
		}
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(r.dir, name), []byte(text), 0o644); err != nil {
			return "", err
		}
	}
	return work, nil
}

// copyCheckout copies the files of the repository that git knows of, or would.
func (r *pageRun) copyCheckout(to string) error {
	copied := exec.Command("bash", "-c", `git -C "$1" ls-files -z --cached --others --exclude-standard | (cd "$1" && xargs -0 cp --parents -t "$2" 2>/dev/null; true)`, "bash", r.root, to)
	if out, err := copied.CombinedOutput(); err != nil {
		return fmt.Errorf("copy the repository: %w\n%s", err, out)
	}
	if _, err := os.Stat(filepath.Join(to, "go.mod")); err == nil {
		return nil
	}
	// No git, or no repository: everything then.
	return os.CopyFS(to, os.DirFS(r.root))
}

// script runs the steps one after the other in one shell.
func (r *pageRun) script() string {
	var b strings.Builder
	b.WriteString("exec </dev/null\n. \"$DOCS/prelude.sh\"\n")
	for i, s := range r.steps {
		fmt.Fprintf(&b, "\necho begin %d >&3\nexec >\"$DOCS/out.%d\" 2>&1\n", i, i)
		source := fmt.Sprintf(". \"$DOCS/step.%d\"", i)
		switch {
		case s.kind == writeFile:
			fmt.Fprintf(&b, "mkdir -p \"$(dirname %[2]s)\"\ncp \"$DOCS/step.%[1]d\" %[2]s\n", i, quote(s.name))
		case s.kind == runBackground:
			for _, command := range commands(s.text) {
				fmt.Fprintf(&b, "in_background %[1]s %[1]s\n", quote(command))
			}
			if s.until != "" {
				fmt.Fprintf(&b, "await eval %s\nstill_running\n", quote(s.until))
			}
		case s.fails:
			fmt.Fprintf(&b, "if (%s); then echo 'it has not failed'; false; fi\n", source)
		default:
			b.WriteString(source + "\n")
		}
		fmt.Fprintf(&b, "echo end %d >&3\n", i)
	}
	fmt.Fprintf(&b, "\necho begin %d >&3\nexec >\"$DOCS/out.%d\" 2>&1\nstill_running\n", len(r.steps), len(r.steps))
	return b.String()
}

// quote makes text one word of a shell.
func quote(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }
