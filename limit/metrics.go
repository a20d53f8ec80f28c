package limit

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics count what was refused. The label has a handful of values, whatever clients ask for.
type metrics struct {
	refused [reasons]prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	refused := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "piko_limit_refused_total",
		Help: "Requests that were not taken because of a limit: requests in flight of an endpoint, tenant, node or tunnel, a rate, or memory."}, []string{"limit"})
	m := &metrics{}
	for why := allowed + 1; why < reasons; why++ {
		m.refused[why] = refused.WithLabelValues(names[why])
	}
	if reg == nil {
		return m, nil
	}
	if err := reg.Register(refused); err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	return m, nil
}
