package main

import (
	"os"
	"testing"
)

func TestCgroupLimit(t *testing.T) {
	for _, tt := range []struct {
		name, groups string
		files        map[string]string
		want         int64
	}{
		{"version 2 in a container", "0::/\n", map[string]string{"/sys/fs/cgroup/memory.max": "1000\n"}, 1000},
		{"version 2 in a unit", "0::/system.slice/piko.service\n", map[string]string{"/sys/fs/cgroup/system.slice/piko.service/memory.max": "2000\n", "/sys/fs/cgroup/system.slice/memory.max": "max\n"}, 2000},
		{"smaller above", "0::/a/b\n", map[string]string{"/sys/fs/cgroup/a/b/memory.max": "2000\n", "/sys/fs/cgroup/a/memory.max": "500\n"}, 500},
		{"version 1 in a container", "9:memory:/docker/x\n5:cpu:/docker/x\n", map[string]string{"/sys/fs/cgroup/memory/memory.limit_in_bytes": "3000\n"}, 3000},
		{"version 1 without a limit", "9:memory:/\n", map[string]string{"/sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"}, 0},
		{"no limit", "0::/\n", map[string]string{"/sys/fs/cgroup/memory.max": "max\n"}, 0},
		{"no files", "0::/\n", nil, 0},
		{"rubbish", "x\n0\n0::\n", map[string]string{"/sys/fs/cgroup/memory.max": "-5"}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			read := func(path string) ([]byte, error) {
				if text, ok := tt.files[path]; ok {
					return []byte(text), nil
				}
				return nil, os.ErrNotExist
			}
			if got := cgroupLimit(tt.groups, read); got != tt.want {
				t.Errorf("got %d, want %d", got, tt.want)
			}
		})
	}
}
