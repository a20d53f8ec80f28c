package gossip

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// An epoch is the node's id, a dash, and the time of its start in milliseconds as
// 12 hexadecimal digits.
const epochDigits = 12

// maxNodeID bounds ids, in bytes: an epoch has to fit into a frame.
const maxNodeID = maxEpoch - epochDigits - 1

var errEpoch = errors.New("is not a node's id, a dash and 12 hexadecimal digits")

// NewEpoch is the name of one start of a node: no two have the same.
func NewEpoch(nodeID string, start time.Time) string {
	return fmt.Sprintf("%s-%0*x", nodeID, epochDigits, start.UnixMilli()&(1<<48-1))
}

// parseEpoch takes an epoch apart. The id has no byte that could confuse a log, a
// header or a path.
func parseEpoch(epoch string) (id string, start time.Time, err error) {
	i := len(epoch) - epochDigits - 1
	if i < 1 || i > maxNodeID || epoch[i] != '-' {
		return "", time.Time{}, fmt.Errorf("epoch %.200q %w", epoch, errEpoch)
	}
	ms, err := strconv.ParseUint(epoch[i+1:], 16, 64)
	if err != nil || strings.ToLower(epoch[i+1:]) != epoch[i+1:] || epoch[i+1] == '+' {
		return "", time.Time{}, fmt.Errorf("epoch %.200q %w", epoch, errEpoch)
	}
	for _, c := range []byte(epoch[:i]) {
		if c <= ' ' || c >= 0x7f || c == '/' || c == '"' || c == '\\' {
			return "", time.Time{}, fmt.Errorf("epoch %.200q %w", epoch, errEpoch)
		}
	}
	return epoch[:i], time.UnixMilli(int64(ms)), nil
}
