// Command deploycheck says what Kubernetes and compose would not take of the
// files in deploy/, without either of them: it decodes the manifests strictly
// into Kubernetes' own types, checks what those cannot say (names that lead
// nowhere, selectors that select nothing, times that do not fit together), and
// loads the compose file with the compose library, schema and all. The Helm
// chart is linted and rendered by Helm's own packages with many values, those of
// docs/kubernetes.md too, what comes out is checked in the same way, and piko started with it.
//
// It is a module of its own, so that its dependencies are not piko's.
//
//	go -C .ci/deploycheck run . ../../deploy /path/to/piko
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: deploycheck DEPLOY PIKO")
		os.Exit(2)
	}
	log.SetOutput(io.Discard) // Helm tells there that it follows the chart's symbolic links
	checked, err := check(context.Background(), os.Args[1])
	chart, chartErr := checkChart(context.Background(), filepath.Join(os.Args[1], "helm", "piko"), filepath.Join(os.Args[1], "..", "docs", "kubernetes.md"), os.Args[2])
	if err = errors.Join(err, chartErr); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(checked)
	fmt.Println(chart)
}

// check checks the directory and says what was in it.
func check(ctx context.Context, dir string) (string, error) {
	manifests, err := filepath.Glob(filepath.Join(dir, "kubernetes", "*.yaml"))
	if err != nil || len(manifests) == 0 {
		return "", fmt.Errorf("find manifests in %s: %w", dir, errors.Join(err, os.ErrNotExist))
	}
	var errs []error
	c := newCluster()
	changes, err := filepath.Glob(filepath.Join(dir, "kubernetes", "tls", "*.yaml"))
	errs = append(errs, err)
	ps, err := c.readPatches(changes)
	errs = append(errs, err)
	for _, ps := range []patches{ps, nil} { // c counts those as they are
		c = newCluster()
		for _, file := range manifests {
			errs = append(errs, c.add(file, ps))
		}
		errs = append(errs, c.check())
	}
	errs = append(errs, ps.unused())
	services, err := checkCompose(ctx, filepath.Join(dir, "compose.yaml"))
	errs = append(errs, err)
	demo, err := checkMonitoring(ctx, filepath.Join(dir, "compose-demo"))
	errs = append(errs, err)
	return fmt.Sprintf("%d manifests with %d objects, %d patches, %d services of compose.yaml and %d of compose-demo are valid", len(manifests), c.objects, len(ps), services, demo), errors.Join(errs...)
}
