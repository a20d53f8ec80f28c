package bench

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Process is one whose CPU time and memory are reported.
type Process struct {
	Name string
	PID  int
}

// ParseProcess reads NAME=PID, or a PID alone, whose name it is then.
func ParseProcess(s string) (Process, error) {
	name, number, named := strings.Cut(s, "=")
	if !named {
		number = s
	}
	pid, err := strconv.Atoi(number)
	if err != nil || pid <= 0 || name == "" {
		return Process{}, fmt.Errorf("%q is not NAME=PID, as in server=1234", s)
	}
	return Process{Name: name, PID: pid}, nil
}

// usage is what a process has spent so far, and how much memory it holds.
type usage struct {
	Process
	cpu time.Duration
	rss int64 // bytes
}

// usageOf asks the system about all of them.
func usageOf(processes []Process) ([]usage, error) {
	list := make([]usage, 0, len(processes))
	for _, p := range processes {
		u, err := readUsage(p)
		if err != nil {
			return nil, fmt.Errorf("process %s (%d): %w", p.Name, p.PID, err)
		}
		list = append(list, u)
	}
	return list, nil
}

// Spent is what a process spent during a measurement.
type Spent struct {
	Name string  `json:"name"`
	PID  int     `json:"pid"`
	CPU  float64 `json:"cpu_seconds"`
	RSS  int64   `json:"rss_bytes"`        // at the end
	Grew int64   `json:"rss_growth_bytes"` // since the beginning
}

func spent(before, after []usage) []Spent {
	list := make([]Spent, len(after))
	for i, a := range after {
		b := before[i]
		list[i] = Spent{Name: a.Name, PID: a.PID, CPU: (a.cpu - b.cpu).Seconds(), RSS: a.rss, Grew: a.rss - b.rss}
	}
	return list
}
