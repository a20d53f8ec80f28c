package bench

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"time"
)

// readUsage reads /proc, as proc_pid_stat(5) has it.
func readUsage(p Process) (usage, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.PID))
	if err != nil {
		return usage{}, err
	}
	// The name, in parentheses, may have anything in it. Behind it are the fields from the third on.
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 22 {
		return usage{}, fmt.Errorf("/proc/%d/stat has %d fields", p.PID, len(fields))
	}
	number := func(field int) int64 { // counted as in the manual
		n, _ := strconv.ParseInt(string(fields[field-3]), 10, 64)
		return n
	}
	const tick = time.Second / 100 // USER_HZ, which is 100 for every program
	return usage{
		Process: p,
		cpu:     time.Duration(number(14)+number(15)) * tick,
		rss:     number(24) * int64(os.Getpagesize()),
	}, nil
}
