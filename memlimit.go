package main

import (
	"log/slog"
	"math"
	"os"
	"path"
	"runtime/debug"
	"strconv"
	"strings"
)

// limitMemory makes the garbage collector respect the container's memory limit,
// as GOMAXPROCS already follows its CPU limit: 90 % of it, so that the kernel
// does not have to kill. It does nothing when GOMEMLIMIT is set.
func limitMemory(getenv func(string) (string, bool), log *slog.Logger) {
	if text, _ := getenv("GOMEMLIMIT"); text != "" {
		return
	}
	groups, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return // not Linux
	}
	limit := cgroupLimit(string(groups), os.ReadFile)
	if limit == 0 {
		return
	}
	debug.SetMemoryLimit(limit / 10 * 9)
	subsystem(log, "memory").Debug("memory limit taken from the cgroup", "cgroup_bytes", limit, "limit_bytes", limit/10*9)
}

// machineMemory is the memory of the machine, 0 if that cannot be told.
func machineMemory(read func(string) ([]byte, error)) int64 {
	text, err := read("/proc/meminfo")
	if err != nil {
		return 0 // not Linux
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line) // MemTotal:  16384000 kB
		if len(fields) == 3 && fields[0] == "MemTotal:" {
			n, _ := strconv.ParseInt(fields[1], 10, 53)
			return n << 10
		}
	}
	return 0
}

// cgroupLimit is the smallest memory limit of the cgroup and those above it, 0
// if there is none. groups is /proc/self/cgroup.
func cgroupLimit(groups string, read func(string) ([]byte, error)) int64 {
	limit := int64(math.MaxInt64)
	for line := range strings.Lines(groups) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) != 3 {
			continue
		}
		root, file := "/sys/fs/cgroup", "memory.max"
		if fields[1] == "memory" { // version 1
			root, file = "/sys/fs/cgroup/memory", "memory.limit_in_bytes"
		} else if fields[1] != "" {
			continue
		}
		for dir := path.Clean("/" + fields[2]); ; dir = path.Dir(dir) {
			if text, err := read(path.Join(root, dir, file)); err == nil {
				if n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64); err == nil && n > 0 {
					limit = min(limit, n)
				}
			}
			if dir == "/" {
				break
			}
		}
	}
	if limit > 1<<50 { // none: "max", or version 1's huge number
		return 0
	}
	return limit
}
