// Command docs runs the shell blocks of the documents it is given, and checks their links.
//
//	go run ./.ci/docs                   README.md, SECURITY.md, docs/, deploy/
//	go run ./.ci/docs docs/agent.md     one page
//	go run ./.ci/docs -links            the links alone
//
// A page is run top to bottom in one shell, in an empty directory and in a network and process
// namespace of its own, with a piko that was just built in its PATH. What is fenced as sh is
// run; every other fenced block has another language. HTML comments say how (see page.go):
//
//	<!-- not run here: REASON -->    above a block that cannot be
//	<!-- background -->              each command of the block runs until the page's end, or <!-- stop -->
//	<!-- background, until: CMD -->  and the page goes on when CMD succeeds
//	<!-- needs: PROGRAM... -->       the block is skipped without them; with CI=true that is an error
//	<!-- fails -->                   the block has to fail
//	<!-- within: 60s -->             the time it has, in place of 30s
//	<!-- file: NAME -->              above a block of another language: it is written to that file
//	<!-- setup: COMMANDS -->         run as well, unseen by readers; see prelude.sh for functions
//	<!-- stop -->                    ends what runs in the background
//	<!-- checkout -->                the page starts in a copy of the repository
//	<!-- note: TEXT -->              nothing
//
// The exit status is 1 if a block fails or a link leads nowhere.
package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == insideArg {
		inside(os.Args[2:])
	}
	linksOnly := flag.Bool("links", false, "check links and fences, run nothing")
	jobs := flag.Int("jobs", 2, "run this many pages at a time")
	serveAddr := flag.String("service", "", "be the service of the pages at this `address`")
	tcp := flag.Bool("tcp", false, "with -service: an echo over TCP")
	flag.Parse()
	if *serveAddr != "" {
		fail(service(*serveAddr, *tcp))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	files := flag.Args()
	if len(files) == 0 {
		var err error
		if files, err = documents("."); err != nil {
			fail(err)
		}
	}
	if !check(ctx, files, *jobs, *linksOnly) {
		os.Exit(1)
	}
}

// documents are the files that are looked at when none is named.
func documents(root string) ([]string, error) {
	var files []string
	for _, name := range []string{"README.md", "SECURITY.md", "docs", "deploy"} {
		err := filepath.WalkDir(filepath.Join(root, name), func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() && strings.HasSuffix(path, ".md") {
				files = append(files, path)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return files, nil
}

// check reads, links and runs everything, and prints what came of it.
func check(ctx context.Context, files []string, jobs int, linksOnly bool) bool {
	var problems []string
	var pages []*page
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			problems = append(problems, err.Error())
			continue
		}
		p, errs := parse(file, string(text))
		pages, problems = append(pages, p), append(problems, errs...)
	}
	links, errs := checkLinks(pages)
	problems = append(problems, errs...)
	for _, p := range problems {
		fmt.Println(p)
	}
	sum := counts{failed: len(problems)}
	if !linksOnly && len(problems) == 0 {
		sum = runAll(ctx, pages, jobs)
	}
	fmt.Printf("%d blocks run, %d not run, %d failed; %d links\n", sum.run, sum.skipped, sum.failed, links)
	return sum.failed == 0
}

// counts is what became of blocks.
type counts struct{ run, skipped, failed int }

// runAll runs the pages that have anything to run, a few at a time, and prints each as it ends.
func runAll(ctx context.Context, pages []*page, jobs int) (sum counts) {
	pages = slices.DeleteFunc(slices.Clone(pages), func(p *page) bool { return len(p.steps) == 0 })
	// Long pages first, so that none is left for the end.
	slices.SortStableFunc(pages, func(a, b *page) int { return cmp.Compare(len(b.steps), len(a.steps)) })
	env, err := newEnvironment(ctx)
	if err != nil {
		fail(err)
	}
	defer os.RemoveAll(env.dir)
	if !env.isolated {
		fmt.Println("no namespaces here: pages run one at a time, on this machine's ports")
		jobs = 1
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	slots := make(chan struct{}, max(1, jobs))
	for _, p := range pages {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			began := time.Now()
			report, n := env.run(ctx, p)
			mu.Lock()
			defer mu.Unlock()
			fmt.Printf("%-28s %2d run, %2d not run, %4.1f s\n%s", p.file, n.run, n.skipped, time.Since(began).Seconds(), report)
			sum.run, sum.skipped, sum.failed = sum.run+n.run, sum.skipped+n.skipped, sum.failed+n.failed
		})
	}
	wg.Wait()
	return sum
}

// fail ends the process, with the error if there is one.
func fail(err error) {
	if err == nil {
		os.Exit(0)
	}
	fmt.Fprintln(os.Stderr, "docs:", err)
	os.Exit(1)
}

// output is what a command prints, without the newline.
func output(ctx context.Context, name string, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out)), nil
}
