package suites

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"google.golang.org/grpc/health"
	healthgrpc "google.golang.org/grpc/health/grpc_health_v1"
)

// TestHealthCheckOfAgent has an agent ask the health service of grpc-go.
func TestHealthCheckOfAgent(t *testing.T) {
	t.Parallel()
	s, h := newTestServer(&service{}), health.NewServer()
	healthgrpc.RegisterHealthServer(s, h)
	h.SetServingStatus("checked", healthgrpc.HealthCheckResponse_NOT_SERVING)
	p, status := oneNode(t), freeAddr(t)
	start(t, "agent", pikoBinary, agentArgs("http://"+p.owner.upstream, "checked", serveTCP(t, s),
		"--health-check.type", "grpc", "--health-check.service", "checked", "--health-check.interval", "100ms",
		"--health-check.start-gate", "--server.enabled", "--server.bind-addr", status)...)
	for _, step := range []struct {
		change    func()
		healthy   bool
		connected bool
		err       string
	}{
		{func() {}, false, false, "service is NOT_SERVING"},
		{func() { h.SetServingStatus("checked", healthgrpc.HealthCheckResponse_SERVING) }, true, true, ""},
		{func() { h.Shutdown() }, false, true, "service is NOT_SERVING"},
	} {
		step.change()
		eventually(t, 20*time.Second, fmt.Sprintf("the agent says %+v", step), func() error {
			body, err := fetch("http://" + status + "/status")
			if err != nil {
				return err
			}
			var got struct {
				Listeners []struct {
					Connected bool
					Health    struct {
						Healthy bool
						Error   string
					}
				}
			}
			if err := json.Unmarshal(body, &got); err != nil || len(got.Listeners) != 1 {
				return errors.Join(err, fmt.Errorf("status %s", body))
			}
			l := got.Listeners[0]
			if l.Connected != step.connected || l.Health.Healthy != step.healthy || l.Health.Error != step.err {
				return fmt.Errorf("it is %+v", l)
			}
			return nil
		})
	}
}
