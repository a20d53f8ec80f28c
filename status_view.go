package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/goccy/go-yaml"

	"piko/admin"
)

// statusView is how a question about traffic is asked.
type statusView struct {
	Cluster bool `flagonly:"" help:"Ask all nodes of the cluster and put their answers together. What is missing is said."`
	Watch   bool `flagonly:"" short:"w" help:"Ask again every second, until interrupted."`
}

// watchPause is how long --watch waits between two questions.
const watchPause = time.Second

// clearScreen moves to the upper left corner and clears what follows.
const clearScreen = "\x1b[H\x1b[J"

// show asks and prints, again and again with --watch.
func (v *statusView) show(p *process, status *statusCmd, ask func(context.Context, *admin.Client) (statusAnswer, error)) error {
	client, err := status.client()
	if err != nil {
		return err
	}
	client.Cluster = v.Cluster
	for n := 0; ; n++ {
		answer, err := ask(p.ctx, client)
		switch {
		case err != nil && v.Watch && p.ctx.Err() != nil:
			return nil // interrupted
		case err != nil && n == 0:
			return status.failed(err)
		case err != nil: // the node may come back
			fmt.Fprintln(p.stderr, status.failed(err))
		default:
			if err := v.print(p.stdout, status, answer); err != nil {
				return err
			}
		}
		if !v.Watch {
			return nil
		}
		pause(p.ctx, watchPause)
		if p.ctx.Err() != nil {
			return nil
		}
	}
}

// print prints one answer; a terminal shows one at a time.
func (v *statusView) print(w io.Writer, status *statusCmd, answer statusAnswer) error {
	var text bytes.Buffer
	if v.Watch && isTerminal(w) {
		text.WriteString(clearScreen)
	}
	if err := status.print(&text, answer); err != nil {
		return err
	}
	if v.Watch && !isTerminal(w) && status.Output != "json" {
		text.WriteString(map[bool]string{true: "---\n", false: "\n"}[status.Output == "yaml"])
	}
	_, err := w.Write(text.Bytes())
	return err
}

// answerOf is an answer whose YAML has the keys of its JSON, in their order.
func answerOf(v any, table func(io.Writer)) (statusAnswer, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return statusAnswer{}, err
	}
	var ordered yaml.MapSlice
	if err := yaml.UnmarshalWithOptions(text, &ordered, yaml.UseOrderedMap()); err != nil {
		return statusAnswer{}, err
	}
	return statusAnswer{json: v, yaml: ordered, table: table}, nil
}

// loadHead and loadCells are the columns of a load.
const loadHead = "IN FLIGHT\tREQ/S\tERR/S\tP50\tP99"

func loadCells(l admin.Load) string {
	return fmt.Sprintf("%d\t%s\t%s\t%s\t%s", l.InFlight, rate(l.RequestsPerSecond), rate(l.ErrorsPerSecond), latency(l.P50), latency(l.P99))
}

// rate is short, and never 0 unless it is.
func rate(perSecond float64) string {
	switch {
	case perSecond == 0:
		return "0"
	case perSecond < 10:
		return strconv.FormatFloat(perSecond, 'f', 2, 64)
	}
	return strconv.FormatFloat(perSecond, 'f', 0, 64)
}

// latency is seconds as people read them.
func latency(seconds float64) string {
	d := time.Duration(seconds * float64(time.Second))
	switch {
	case d == 0:
		return "-"
	case d < 10*time.Millisecond:
		return d.Round(10 * time.Microsecond).String()
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	}
	return d.Round(10 * time.Millisecond).String()
}

// since is how long ago it was.
func since(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return max(time.Since(t).Round(time.Second), 0).String()
}

// size is a number of bytes as people read it.
func size(n uint64) string {
	if n < 1<<10 {
		return fmt.Sprintf("%d B", n)
	}
	f, unit := float64(n)/(1<<10), 0
	for ; f >= 1<<10 && unit < 3; unit++ {
		f /= 1 << 10
	}
	return fmt.Sprintf("%.1f %ciB", f, "KMGT"[unit])
}

// writePartial says what is missing.
func writePartial(w io.Writer, partial []admin.Partial) {
	if len(partial) > 0 {
		fmt.Fprintln(w, "\nMISSING\tWHY")
	}
	for _, p := range partial {
		fmt.Fprintf(w, "%s\t%s\n", p.Node, p.Error)
	}
}
