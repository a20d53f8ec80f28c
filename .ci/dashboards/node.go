package main

const ofNode = `job="$job", instance=~"$instance"`

func instanceVariable(label, metric string) variable {
	return variable{name: "instance", label: label, query: `label_values(` + metric + `{job="$job"}, instance)`, many: true}
}

func nodeDashboard() dashboard {
	return dashboard{
		uid: "piko-node", title: "Piko / Node", description: "The processes of piko nodes: memory, CPU, connections, configuration, certificates.",
		variables: []variable{jobVariable("piko_node_info"), instanceVariable("Node", "piko_node_info")},
		rows: []row{
			{title: "State", panels: []panel{
				stat("Ready", "none", "Whether /ready says yes.", `min by (instance) (piko_node_ready{`+ofNode+`})`, threshold{nil, "red"}, threshold{1, "green"}).valueNames(yesNo("ready", "not ready", 0)),
				stat("Up for", "s", "Time since the process started.", `time() - max by (instance) (process_start_time_seconds{`+ofNode+`})`),
				stat("Configuration", "none", "Whether it had a mistake when it was last read. The node goes on with the one before.", `min(piko_config_last_reload_successful{`+ofNode+`})`,
					threshold{nil, "red"}, threshold{1, "green"}).valueNames(yesNo("good", "mistake", 0)),
				stat("Read last", "s", "Time since the configuration was last read without a mistake.", `time() - min(piko_config_last_reload_success_timestamp_seconds{`+ofNode+`})`),
				stat("Memory state", "none", "How short memory is.", `max(piko_memory_state{`+ofNode+`})`, bad(1, 2)...).valueNames(object{"type": "value", "options": object{
					"0": object{"text": "enough", "index": 0}, "1": object{"text": "tight", "index": 1}, "2": object{"text": "short", "index": 2}, "3": object{"text": "critical", "index": 3}}}),
				stat("File descriptors", "percentunit", "Part of them that is in use.", `max(process_open_fds{`+ofNode+`} / process_max_fds{`+ofNode+`})`, bad(0.6, 0.8)...).digits(1),
			}},
			{title: "Memory and CPU", panels: []panel{
				graph("Memory", "bytes", "Resident: what the system counts. Limit: GOMEMLIMIT, which comes from the container's.",
					q("{{instance}} resident", `process_resident_memory_bytes{`+ofNode+`}`), q("{{instance}} heap in use", `go_memstats_heap_inuse_bytes{`+ofNode+`}`),
					q("{{instance}} limit", `go_gc_gomemlimit_bytes{`+ofNode+`} < 2^60`)),
				graph("CPU", "short", "Processors that are busy.", q("{{instance}}", `rate(process_cpu_seconds_total{`+ofNode+`}[$__rate_interval])`), q("{{instance}} may use", `go_sched_gomaxprocs_threads{`+ofNode+`}`)),
				graph("Bytes that wait for slow readers", "bytes", "Beyond the limit the slowest are reset.",
					q("{{instance}} waiting", `piko_buffered_bytes{`+ofNode+`}`), q("{{instance}} held uploads", `piko_held_upload_bytes{`+ofNode+`}`), q("{{instance}} limit", `piko_buffered_bytes_limit{`+ofNode+`}`)),
				graph("Slow readers that were reset", "ops", "For want of memory for the bytes that wait for them.", q("{{instance}}", `rate(piko_buffer_resets_total{`+ofNode+`}[$__rate_interval])`)),
				graph("Goroutines", "none", "Those of idle tunnels and connections are few; ever more are a leak.", q("{{instance}}", `go_goroutines{`+ofNode+`}`)),
				graph("Garbage collection", "s", "Longest and median pause of the last collections.",
					q("{{instance}} longest", `go_gc_duration_seconds{`+ofNode+`, quantile=~"1|1.0"}`), q("{{instance}} median", `go_gc_duration_seconds{`+ofNode+`, quantile="0.5"}`)),
				graph("Collections", "ops", "How often garbage is collected.", q("{{instance}}", `rate(go_gc_duration_seconds_count{`+ofNode+`}[$__rate_interval])`)),
				graph("Allocation", "Bps", "Memory that is allocated.", q("{{instance}}", `rate(go_memstats_alloc_bytes_total{`+ofNode+`}[$__rate_interval])`)),
			}},
			{title: "Connections", panels: []panel{
				graph("Connections by port", "none", "Open connections; those of the upstream port are tunnels.", q("{{instance}} {{port}}", `sum by (instance, port) (piko_port_connections{`+ofNode+`})`)),
				graph("Connections that were refused", "ops", "By port and reason.", rates("piko_port_refused_total", ofNode, "port", "reason").happening("reason")),
				graph("Handshakes that failed", "ops", "TLS handshakes and PROXY headers that did not come to an end.", rates("piko_port_handshakes_failed_total", ofNode, "port", "result").happening("result")),
				graph("Errors of accept", "ops", "descriptors: the process has none left.", rates("piko_port_accept_errors_total", ofNode, "port", "error").happening("error")),
				graph("File descriptors", "none", "In use, and how many there may be.", q("{{instance}} open", `process_open_fds{`+ofNode+`}`), q("{{instance}} limit", `process_max_fds{`+ofNode+`}`)),
				graph("Network", "Bps", "All interfaces that the process sees.", q("{{instance}} in", `rate(process_network_receive_bytes_total{`+ofNode+`}[$__rate_interval])`), q("{{instance}} out", `rate(process_network_transmit_bytes_total{`+ofNode+`}[$__rate_interval])`)),
				graph("Handshakes between nodes", "ops", "in: the other node called. proof: it does not know the secret.", rates("piko_peer_handshakes_total", ofNode, "instance", "direction", "result")),
				graph("Requests of other nodes", "reqps", "Hops that come in, by what became of them.", rates("piko_peer_requests_total", ofNode, "instance", "result")),
			}},
			{title: "Tokens and certificates", panels: []panel{
				graph("Refused tokens", "reqps", "By port and reason.", rates("piko_auth_refusals_total", ofNode, "port", "reason").happening("reason")),
				graph("Tokens that had been verified before", "percentunit", "The others cost a signature's verification each.",
					q("{{port}}", `(sum by (port) (rate(piko_auth_token_cache_hits_total{`+ofNode+`}[$__rate_interval])) / (sum by (port) (rate(piko_auth_token_cache_hits_total{`+ofNode+`}[$__rate_interval])) + sum by (port) (rate(piko_auth_token_cache_misses_total{`+ofNode+`}[$__rate_interval])))) or label_replace(vector(0), "port", "no tokens", "", "")`)).upTo(1),
				certificatesTable(),
				graph("Age of key sets", "s", "Time since keys of tokens were last fetched; 0 where none are.", q("{{instance}} {{port}}", `piko_auth_jwks_age_seconds{`+ofNode+`} or sum by (instance) (piko_node_ready{`+ofNode+`} * 0)`)),
			}},
			{title: "Log and events", panels: []panel{
				graph("Log lines that were dropped", "ops", "Whoever reads standard error does not keep up.", q("{{instance}}", `rate(piko_log_lines_dropped_total{`+ofNode+`}[$__rate_interval])`)),
				graph("Webhook", "ops", "Events by what became of them. dropped: too many were waiting.", rates("piko_events_webhook_total", ofNode, "result").happening("result")),
				graph("Spans", "ops", "Of tracing, where it is configured: sent, lost, and requests that were not sampled because of --tracing.max-rate.",
					rates("piko_tracing_spans_exported_total", ofNode, "instance").happening("instance").named("{{instance}} sent"),
					rates("piko_tracing_spans_dropped_total", ofNode, "reason").happening("reason").named("lost ({{reason}})"),
					rates("piko_tracing_limited_total", ofNode, "instance").happening("instance").named("{{instance}} not sampled")),
				graph("Events that were lost", "ops", "By readers of the stream, or the webhook, that do not keep up.", q("{{instance}}", `rate(piko_events_lost_total{`+ofNode+`}[$__rate_interval])`)),
				graph("Gossip that was dropped", "ops", "Messages that were of no use, by reason.", rates("piko_gossip_dropped_total", ofNode, "reason").happening("reason")),
			}},
		},
	}
}

func certificatesTable() panel {
	p := panel{title: "Certificates", description: "Time until each certificate expires, by where it is used. Clients' certificates and authorities are not among them.", kind: "table", width: 12, height: 8, unit: "none",
		queries: []query{{expr: `sort(min by (instance, used_by, name) (piko_tls_certificate_expiry_timestamp_seconds{` + ofNode + `}) - time())`, instant: true}}}
	p.overrides = []object{column("Left", "s", object{"id": "custom.cellOptions", "value": object{"type": "color-text"}}, object{"id": "thresholds", "value": object{"mode": "absolute", "steps": []object{
		{"color": "red", "value": nil}, {"color": "orange", "value": 2 * 86400}, {"color": "green", "value": 14 * 86400}}}})}
	names := map[string]string{"instance": "Node", "used_by": "Used by", "name": "Name", "Value": "Left"}
	return p.transformed(joined("Left", names, map[string]int{"instance": 0, "used_by": 1, "name": 2, "Value": 3})...)
}
