package main

const ofJob = `job="$job"`

func clusterDashboard() dashboard {
	return dashboard{
		uid: "piko-cluster", title: "Piko / Cluster", description: "A cluster of piko nodes as a whole: whether it serves, how well, and what its nodes are up to.",
		variables: []variable{jobVariable("piko_node_info")},
		rows: []row{
			{title: "Now", panels: []panel{
				stat("Ready nodes", "none", "Nodes that say yes at /ready.", `sum(piko_node_ready{job="$job"})`, threshold{nil, "red"}, threshold{1, "green"}),
				stat("Draining nodes", "none", "Nodes that move their work away.", `sum(piko_node_draining{job="$job"})`, bad(1, 1000)...),
				stat("Requests", "reqps", "Requests of clients, at the nodes where they come in.", `sum(rate(piko_proxy_requests_total{job="$job"}[$__rate_interval]))`),
				stat("Failing", "percentunit", "Requests that were answered with 500 or above.",
					`(sum(rate(piko_proxy_requests_total{job="$job", status=~"5.."}[$__rate_interval])) or vector(0)) / sum(rate(piko_proxy_requests_total{job="$job"}[$__rate_interval]))`, bad(0.01, 0.05)...).digits(2),
				stat("p99", "s", "99 of 100 requests took at most so long.", `histogram_quantile(0.99, sum by (le) (rate(piko_proxy_request_latency_seconds_bucket{job="$job"}[$__rate_interval])))`),
				stat("Alerts", "none", "Alerts about piko that fire; see docs/observability.md for what to do.", `count(ALERTS{alertname=~"Piko.+", alertstate="firing"}) or vector(0)`, bad(1, 1)...),
				stat("Tunnels", "none", "Tunnels of agents, on all nodes together. An agent has two, on different nodes.", `sum(piko_upstreams_tunnels{job="$job"})`),
				stat("Endpoints", "none", "Endpoints with a tunnel; one that has tunnels on several nodes counts for each.", `sum(piko_upstreams_registered_endpoints{job="$job"})`),
				stat("In flight", "none", "Requests and connections of clients under way.", `sum(piko_proxy_requests_in_flight{job="$job"})`),
				stat("Tried again", "percentunit", "Requests that had to be sent to a second upstream.", `sum(rate(piko_proxy_retries_total{job="$job"}[$__rate_interval])) / sum(rate(piko_proxy_requests_total{job="$job"}[$__rate_interval]))`, bad(0.01, 0.05)...).digits(2),
				stat("By a hop", "percentunit", "Requests that came in at another node than they are served by.", `sum(rate(piko_upstreams_remote_requests_total{job="$job"}[$__rate_interval])) / sum(rate(piko_proxy_requests_total{job="$job"}[$__rate_interval]))`),
				stat("First certificate", "s", "Time until the first certificate expires.", `min(piko_tls_certificate_expiry_timestamp_seconds{job="$job"}) - time()`, threshold{nil, "red"}, threshold{2 * 86400, "orange"}, threshold{14 * 86400, "green"}),
				nodesTable(),
			}},
			{title: "Traffic", panels: []panel{
				graph("Requests by node", "reqps", "Requests of clients, at the nodes where they come in. Uneven numbers are the load balancer's doing.", rates("piko_proxy_requests_total", ofJob, "instance")).stacked(),
				graph("Latency", "s", "From a request's header to the end of its response; not of upgraded connections.", quantiles("piko_proxy_request_latency_seconds", ofJob)...).withExemplars(),
				graph("Failures by code", "reqps", "What clients got in x-piko-error; service is an answer of 500 and above that is the service's own. docs/troubleshooting.md has the codes.",
					rates("piko_proxy_errors_total", ofJob, "code").happening("code")).stacked(),
				graph("Retries, misses, ejections", "reqps", "Requests sent to a second upstream, hops to a node that had no upstream any more, upstreams avoided since they failed. Clients see none of these.",
					rates("piko_proxy_retries_total", ofJob, "kind").named("retries ({{kind}})"), rates("piko_proxy_misses_total", ofJob).named("misses"),
					rates("piko_proxy_ejections_total", ofJob).named("ejections"), rates("piko_proxy_retry_budget_exhausted_total", ofJob).named("budget exhausted")),
				graph("Busiest endpoints", "reqps", "The ten with most requests; (other) are all that have no series of their own.", q("{{tenant}} {{endpoint}}", `topk(10, sum by (tenant, endpoint) (rate(piko_endpoint_requests_total{job="$job"}[$__rate_interval])))`)),
				graph("Endpoints with most failures", "reqps", "Answers of 500 and above, and responses that broke off.", q("{{tenant}} {{endpoint}}", `topk(10, sum by (tenant, endpoint) (rate(piko_endpoint_errors_total{job="$job"}[$__rate_interval])))`)),
			}},
			{title: "Tunnels and drains", panels: []panel{
				graph("Tunnels by node", "none", "Uneven numbers go away with --upstream.rebalance.threshold.", q("{{instance}}", `sum by (instance) (piko_upstreams_tunnels{job="$job"})`)).stacked(),
				graph("Tunnels by state", "none", "unhealthy: the agent says that its service is. ejected: avoided for a while. draining: a last resort. leaving: ends its last requests.", q("{{state}}", `sum by (state) (piko_upstreams_tunnels{job="$job"})`)),
				graph("Tunnels that ended", "ops", "By reason. dead: nothing was heard. network: the connection broke.", rates("piko_upstreams_disconnects_total", ofJob, "reason")).stacked(),
				graph("Tunnels that were refused", "ops", "By code. duplicate-tunnel is no failure: the agent looks for another node.", rates("piko_upstreams_refused_total", ofJob, "code").happening("code")).stacked(),
				graph("Drains: what is left", "none", "What nodes that drain still wait for.", q("{{instance}} {{kind}}", `sum by (instance, kind) (piko_node_drain_left{job="$job"})`)),
				graph("Events", "ops", "What has come up and gone down, as each node sees it.", rates("piko_events_total", ofJob, "type")),
			}},
			{title: "Between nodes", panels: []panel{
				graph("Nodes, as each sees them", "none", "All nodes should see the same. unreachable: gone without having left.", q("{{instance}}: {{status}}", `sum by (instance, status) (piko_cluster_nodes{job="$job"})`)),
				graph("Gossip lag", "s", "How long copies of other nodes' endpoints were behind what gossip said of them; 0 if they never were.", orZero(quantiles("piko_gossip_lag_seconds", ofJob))...).limits(threshold{nil, "transparent"}, threshold{3, "red"}),
				graph("Hops", "reqps", "Requests sent to another node, by node that sends.", rates("piko_upstreams_remote_requests_total", ofJob, "instance")).stacked(),
				graph("Latency of hops", "s", "From sending a request to another node to the header of the response.", quantiles("piko_proxy_hop_response_seconds", ofJob)...),
				graph("Gossip traffic", "Bps", "Over UDP and TCP, of all nodes together.",
					rates("piko_gossip_packet_bytes_inbound_total", ofJob).named("UDP in"), rates("piko_gossip_packet_bytes_outbound_total", ofJob).named("UDP out"),
					rates("piko_gossip_stream_bytes_inbound_total", ofJob).named("TCP in"), rates("piko_gossip_stream_bytes_outbound_total", ofJob).named("TCP out")),
				graph("Gossip repairs", "ops", "Snapshots and restarts are part of starting and stopping; mismatches should be none.",
					rates("piko_gossip_snapshots_total", ofJob).named("snapshots"), rates("piko_gossip_digest_mismatches_total", ofJob).named("mismatches"),
					rates("piko_gossip_stream_restarts_total", ofJob, "reason").named("restarts ({{reason}})"), rates("piko_gossip_joins_total", ofJob, "result").named("joins ({{result}})"),
					rates("piko_gossip_id_conflicts_total", ofJob).named("id conflicts")),
				graph("Gossip health", "none", "0 is well; above that a node does not keep up. Queue: heads that wait to be announced.",
					q("{{instance}} score", `piko_gossip_health_score{job="$job"}`), q("{{instance}} queue", `piko_gossip_queue{job="$job"}`)),
				graph("Connections between nodes", "none", "Each pair of nodes has one or more.", q("{{instance}} {{direction}}", `sum by (instance, direction) (piko_peer_sessions{job="$job"})`)),
			}},
		},
	}
}

func nodesTable() panel {
	instant := func(expr string) query { return query{expr: expr, instant: true} }
	p := panel{title: "Nodes", description: "Each node that is scraped.", kind: "table", width: 24, height: 7, unit: "none", queries: []query{
		instant(`sum by (instance, node_id, version) (piko_node_info{job="$job"})`),
		instant(`sum by (instance) (piko_node_ready{job="$job"})`),
		instant(`sum by (instance) (piko_node_draining{job="$job"})`),
		instant(`sum by (instance) (piko_upstreams_tunnels{job="$job"})`),
		instant(`sum by (instance) (rate(piko_proxy_requests_total{job="$job"}[$__rate_interval]))`),
		instant(`sum by (instance) (rate(piko_proxy_requests_total{job="$job", status=~"5.."}[$__rate_interval])) or sum by (instance) (0 * piko_node_ready{job="$job"})`),
		instant(`sum by (instance) (process_resident_memory_bytes{job="$job"})`),
		instant(`time() - max by (instance) (process_start_time_seconds{job="$job"})`),
	}}
	p.overrides = []object{
		column("Ready", "none", object{"id": "mappings", "value": []object{yesNo("yes", "no", 0)}}, object{"id": "custom.cellOptions", "value": object{"type": "color-text"}}),
		column("Draining", "none", object{"id": "mappings", "value": []object{yesNo("yes", "no", 1)}}, object{"id": "custom.cellOptions", "value": object{"type": "color-text"}}),
		column("Requests", "reqps"), column("Failures", "reqps"), column("Memory", "bytes"), column("Up for", "s"),
	}
	names := map[string]string{"instance": "Address", "node_id": "Node", "version": "Version", "Value #B": "Ready", "Value #C": "Draining", "Value #D": "Tunnels",
		"Value #E": "Requests", "Value #F": "Failures", "Value #G": "Memory", "Value #H": "Up for"}
	order := map[string]int{"node_id": 0, "instance": 1, "version": 2, "Value #B": 3, "Value #C": 4, "Value #D": 5, "Value #E": 6, "Value #F": 7, "Value #G": 8, "Value #H": 9}
	return p.transformed(joined("Node", names, order, "Value #A")...)
}
