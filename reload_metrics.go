package main

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// reloadMetrics says how the last reload went, and what the configuration is.
type reloadMetrics struct{ at, ok, hash prometheus.Gauge }

func newReloadMetrics() *reloadMetrics {
	m := &reloadMetrics{
		at: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "piko_config_last_reload_success_timestamp_seconds",
			Help: "When the configuration was last read without a mistake.",
		}),
		ok: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "piko_config_last_reload_successful",
			Help: "1 if the configuration had no mistake when it was last read, else 0.",
		}),
		hash: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "piko_config_hash",
			Help: "48 bits of a hash of the configuration that was last read without a mistake, secrets aside.",
		}),
	}
	m.set(true, time.Now())
	return m
}

func (m *reloadMetrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{m.at, m.ok, m.hash}
}

func (m *reloadMetrics) set(ok bool, now time.Time) {
	if !ok {
		m.ok.Set(0)
		return
	}
	m.ok.Set(1)
	m.at.Set(float64(now.UnixMilli()) / 1e3)
}

// hashOf is a number of 48 bits, which a float64 holds, that two configurations
// share when they say the same. Whoever reads metrics may not know secrets, and
// could guess short ones by their hash: settings that hold some do not count.
func hashOf(settings map[string]any) uint64 {
	sum := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		if !isSecret(name) {
			fmt.Fprintf(sum, "%s\x00%v\x00", name, settings[name])
		}
	}
	return binary.BigEndian.Uint64(sum.Sum(nil)) >> 16
}

func isSecret(name string) bool {
	if strings.HasSuffix(name, "-file") {
		return false
	}
	return strings.Contains(name, "secret") || strings.Contains(name, "token") || name == proxyTenants || name == upstreamTenants
}
