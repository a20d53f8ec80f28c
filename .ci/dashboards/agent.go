package main

func agentDashboard() dashboard {
	const of = ofNode + `, endpoint=~"$endpoint"`
	const forwards = `job=~"$forward", endpoint=~"$endpoint"`
	agents := jobVariable("piko_agent_listeners_connected")
	agents.label = "Agents"
	return dashboard{
		uid: "piko-agent", title: "Piko / Agent", description: "Agents and forwarders: their tunnels, what their services answer, and their connections. They are scraped if they run with --server.enabled.",
		variables: []variable{agents, instanceVariable("Agent", "piko_agent_listeners_connected"),
			{name: "endpoint", label: "Endpoint", query: `label_values({__name__=~"piko_agent_listeners_connected|piko_forward_connections_open"}, endpoint)`, many: true},
			{name: "forward", label: "Forwarders", query: `label_values(piko_forward_connections_open, job)`, many: true}},
		rows: []row{
			{title: "Now", panels: []panel{
				stat("Listeners", "none", "Listeners that have a tunnel.", `sum(piko_agent_listeners_connected{`+of+`})`, threshold{nil, "red"}, threshold{1, "green"}),
				stat("Tunnels", "none", "Two for each listener, where there are two nodes.", `sum(piko_agent_listener_tunnels{`+of+`})`),
				stat("Requests", "reqps", "", `sum(rate(piko_agent_requests_total{`+of+`}[$__rate_interval]))`),
				stat("Failing", "percentunit", "Answers of 500 and above of services, or that the service was not reached.",
					`(sum(rate(piko_agent_requests_total{`+of+`, status=~"5.."}[$__rate_interval])) or vector(0)) / sum(rate(piko_agent_requests_total{`+of+`}[$__rate_interval]))`, bad(0.01, 0.05)...).digits(2),
				stat("p99", "s", "", `histogram_quantile(0.99, sum by (le) (rate(piko_agent_request_latency_seconds_bucket{`+of+`}[$__rate_interval])))`),
				stat("Unhealthy services", "none", "Services whose health checks fail.", `count(piko_agent_listeners_healthy{`+of+`} == 0) or vector(0)`, bad(1, 1)...),
			}},
			{title: "Tunnels", panels: []panel{
				graph("Listeners that are connected", "none", "0 is an endpoint that this agent does not serve.", q("{{instance}} {{endpoint}}", `piko_agent_listeners_connected{`+of+`}`)),
				graph("Tunnels", "none", "Each to another node.", q("{{instance}} {{endpoint}}", `piko_agent_listener_tunnels{`+of+`}`)),
				graph("What happens to tunnels", "ops", "lost: ended without having been left. failed: attempts to open one.",
					rates("piko_agent_listener_connects_total", of).named("opened"), rates("piko_agent_listener_tunnels_lost_total", of).named("lost"), rates("piko_agent_listener_connect_failures_total", of).named("failed")),
				graph("Cut at stops", "none", "Requests and connections that outlived the grace period.", q("{{instance}} {{endpoint}}", `piko_agent_requests_cut_total{`+of+`}`)),
			}},
			{title: "HTTP services", panels: []panel{
				graph("Requests by status", "reqps", "502 and 504 with x-piko-error are the agent's.", rates("piko_agent_requests_total", of, "status")).stacked(),
				graph("Requests by endpoint", "reqps", "", rates("piko_agent_requests_total", of, "endpoint")).stacked(),
				graph("Latency", "s", "From a request's header to the end of its response: what of the client's latency is the service's.", quantiles("piko_agent_request_latency_seconds", of)...),
				graph("p99 by endpoint", "s", "", q("{{endpoint}}", `histogram_quantile(0.99, sum by (le, endpoint) (rate(piko_agent_request_latency_seconds_bucket{`+of+`}[$__rate_interval])))`)),
				graph("In flight", "none", "Upgraded connections included.", q("{{endpoint}}", `sum by (endpoint) (piko_agent_requests_in_flight{`+of+`})`)).stacked(),
				graph("Bytes of bodies", "Bps", "", q("requests", `sum(rate(piko_agent_request_size_bytes_sum{`+of+`}[$__rate_interval]))`), q("responses", `sum(rate(piko_agent_response_size_bytes_sum{`+of+`}[$__rate_interval]))`)),
				graph("Health of services", "none", "Listeners whose service passes its checks.", q("{{instance}} {{endpoint}}", `piko_agent_listeners_healthy{`+of+`} or label_replace(vector(0), "endpoint", "no checks", "", "")`)),
				graph("Health checks", "ops", "", rates("piko_agent_health_checks_total", of, "endpoint", "result").happening("endpoint")),
			}},
			{title: "TCP services", panels: []panel{
				graph("Connections", "none", "Open now.", q("{{endpoint}}", `sum by (endpoint) (piko_agent_connections_open{`+of+`}) or label_replace(vector(0), "endpoint", "none", "", "")`)).stacked(),
				graph("Connections that ended", "ops", "failed: the service was not reached.", rates("piko_agent_connections_total", of, "endpoint", "result").happening("endpoint")),
				graph("Bytes", "Bps", "Of connections that have ended. in: from the client.", rates("piko_agent_connection_bytes_total", of, "endpoint", "direction").happening("endpoint")),
			}},
			{title: "Forwarders", panels: []panel{
				graph("Connections", "none", "Open now.", q("{{instance}} {{endpoint}}", `sum by (instance, endpoint) (piko_forward_connections_open{`+forwards+`}) or label_replace(vector(0), "endpoint", "no forwarders", "", "")`)),
				graph("Connections that ended", "ops", "failed: the endpoint was not reached.", rates("piko_forward_connections_total", forwards, "endpoint", "result").happening("endpoint")),
				graph("Time to connect", "s", "All attempts of a connection together.", q("p99 {{endpoint}}", `histogram_quantile(0.99, sum by (le, endpoint) (rate(piko_forward_connect_seconds_bucket{`+forwards+`}[$__rate_interval]))) or label_replace(vector(0), "endpoint", "no forwarders", "", "")`)),
				graph("Bytes", "Bps", "Of connections that have ended. in: from the local program.", rates("piko_forward_connection_bytes_total", forwards, "endpoint", "direction").happening("endpoint")),
			}},
			{title: "Processes", panels: []panel{
				graph("Memory", "bytes", "Resident.", q("{{instance}}", `process_resident_memory_bytes{`+ofNode+`}`)),
				graph("CPU", "short", "Processors that are busy.", q("{{instance}}", `rate(process_cpu_seconds_total{`+ofNode+`}[$__rate_interval])`)),
				graph("Goroutines", "none", "", q("{{instance}}", `go_goroutines{`+ofNode+`}`)),
				graph("Configuration and log", "none", "mistake: 1 if the configuration had one when it was last read. dropped: log lines a second.",
					q("{{instance}} mistake", `1 - piko_config_last_reload_successful{`+ofNode+`}`), q("{{instance}} dropped", `rate(piko_log_lines_dropped_total{`+ofNode+`}[$__rate_interval])`)),
			}},
		},
	}
}
