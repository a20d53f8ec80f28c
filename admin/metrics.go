package admin

import (
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Bounds of a scrape: a slow or repeated one must not cost the proxy port.
const (
	maxScrapes    = 4
	scrapeTimeout = 10 * time.Second
)

// metricsHandler serves what can be gathered, even if a part cannot.
func metricsHandler(g prometheus.Gatherer, log *slog.Logger) http.Handler {
	return promhttp.HandlerFor(g, promhttp.HandlerOpts{
		ErrorLog:            errorLog{log},
		ErrorHandling:       promhttp.ContinueOnError,
		MaxRequestsInFlight: maxScrapes,
		Timeout:             scrapeTimeout,
		EnableOpenMetrics:   true,
		CoalesceGather:      true,
	})
}

// errorLog is promhttp's idea of a logger.
type errorLog struct{ log *slog.Logger }

func (l errorLog) Println(v ...any) {
	l.log.Warn("gather metrics", "error", fmt.Sprint(v...))
}
