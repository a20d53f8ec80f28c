package main

const ofEndpoint = ofNode + `, tenant=~"$tenant", endpoint=~"$endpoint"`

func proxyDashboard() dashboard {
	both := func(metric string) string {
		return `sum by (tenant, endpoint) (rate(` + metric + `{` + ofEndpoint + `}[$__rate_interval]))`
	}
	heat := panel{title: "Latency, all of it", description: "How many requests a second took how long.", kind: "heatmap", unit: "s", width: 12, height: 8,
		queries: []query{q("{{le}}", `sum by (le) (rate(piko_proxy_request_latency_seconds_bucket{`+ofNode+`}[$__rate_interval]))`)}}
	return dashboard{
		uid: "piko-proxy", title: "Piko / Proxy", description: "Requests of clients: how many, how fast, what failed and why, by node, tenant and endpoint.",
		variables: []variable{jobVariable("piko_node_info"), instanceVariable("Node", "piko_node_info"),
			{name: "tenant", label: "Tenant", query: `label_values(piko_endpoint_requests_total{job="$job"}, tenant)`, many: true},
			{name: "endpoint", label: "Endpoint", query: `label_values(piko_endpoint_requests_total{job="$job", tenant=~"$tenant"}, endpoint)`, many: true}},
		rows: []row{
			{title: "Requests", panels: []panel{
				graph("Requests by status", "reqps", "Answers of services and of piko; 499: the client went away.", rates("piko_proxy_requests_total", ofNode, "status")).stacked(),
				graph("Requests by method", "reqps", "", rates("piko_proxy_requests_total", ofNode, "method")).stacked(),
				graph("Latency", "s", "From a request's header to the end of its response; not of upgraded connections.", quantiles("piko_proxy_request_latency_seconds", ofNode)...).withExemplars(),
				heat,
				graph("p99 by node", "s", "", q("{{instance}}", `histogram_quantile(0.99, sum by (le, instance) (rate(piko_proxy_request_latency_seconds_bucket{`+ofNode+`}[$__rate_interval])))`)),
				graph("In flight", "none", "Requests under way, WebSockets, streams and TCP connections included.", q("{{instance}}", `sum by (instance) (piko_proxy_requests_in_flight{`+ofNode+`})`)).stacked(),
			}},
			{title: "What fails", panels: []panel{
				graph("Failures by code", "reqps", "What clients got in x-piko-error. service: an answer of 500 and above that is the service's own. broken-off: a response that began and did not end.",
					rates("piko_proxy_errors_total", ofNode, "code").happening("code")).stacked(),
				graph("Part that fails", "percentunit", "Requests answered with 500 or above.",
					q("{{instance}}", `(sum by (instance) (rate(piko_proxy_requests_total{`+ofNode+`, status=~"5.."}[$__rate_interval])) or sum by (instance) (piko_node_ready{`+ofNode+`} * 0)) / sum by (instance) (rate(piko_proxy_requests_total{`+ofNode+`}[$__rate_interval]))`)).
					limits(threshold{nil, "transparent"}, threshold{0.05, "red"}),
				graph("Retries", "reqps", "free: the first upstream had not executed the request. budget: it is idempotent. exhausted: too many to try again.",
					rates("piko_proxy_retries_total", ofNode, "kind"), rates("piko_proxy_retry_budget_exhausted_total", ofNode).named("exhausted"), rates("piko_peer_retries_total", ofNode).named("at the owner")),
				graph("Misses", "reqps", "Hops that another node gave back.", rates("piko_proxy_misses_total", ofNode, "reason")),
				graph("Ejections", "ops", "Times that an upstream was avoided for a while since it had failed.", rates("piko_proxy_ejections_total", ofNode).named("requests of clients"), rates("piko_peer_ejections_total", ofNode).named("requests of other nodes")),
				graph("Waits for an upstream", "reqps", "Requests that waited up to a second for one to come up.", rates("piko_proxy_waits_total", ofNode, "result")),
				graph("Refused by limits", "reqps", "429 and 503, by limit.", rates("piko_limit_refused_total", ofNode, "limit").happening("limit")),
				graph("Ended with their token", "ops", "Requests and connections whose token expired meanwhile.", rates("piko_proxy_token_expiries_total", ofNode).named("ended")),
			}},
			{title: "Tenants and endpoints", panels: []panel{
				graph("Requests by endpoint", "reqps", "The 20 with most; (other) are all that have no series of their own (--admin.endpoint-metrics).", q("{{tenant}} {{endpoint}}", `topk(20, `+both("piko_endpoint_requests_total")+`)`)).stacked(),
				graph("Part that fails, by endpoint", "percentunit", "The 20 with most.", q("{{tenant}} {{endpoint}}", `topk(20, `+both("piko_endpoint_errors_total")+` / (`+both("piko_endpoint_requests_total")+` > 0))`)).upTo(1),
				graph("p50 by endpoint", "s", "", q("{{tenant}} {{endpoint}}", `topk(20, histogram_quantile(0.5, sum by (le, tenant, endpoint) (rate(piko_endpoint_request_latency_seconds_bucket{`+ofEndpoint+`}[$__rate_interval]))))`)),
				graph("p99 by endpoint", "s", "", q("{{tenant}} {{endpoint}}", `topk(20, histogram_quantile(0.99, sum by (le, tenant, endpoint) (rate(piko_endpoint_request_latency_seconds_bucket{`+ofEndpoint+`}[$__rate_interval]))))`)),
				graph("In flight by endpoint", "none", "", q("{{tenant}} {{endpoint}}", `topk(20, sum by (tenant, endpoint) (piko_endpoint_requests_in_flight{`+ofEndpoint+`}))`)).stacked(),
				graph("Requests by tenant", "reqps", "Of configured tenants, by class of status.", rates("piko_proxy_tenant_requests_total", ofNode+`, tenant=~"$tenant"`, "tenant", "status").happening("tenant")).stacked(),
			}},
			{title: "Bodies", panels: []panel{
				graph("Bytes of bodies", "Bps", "", q("requests", `sum(rate(piko_proxy_request_size_bytes_sum{`+ofNode+`}[$__rate_interval]))`), q("responses", `sum(rate(piko_proxy_response_size_bytes_sum{`+ofNode+`}[$__rate_interval]))`)),
				graph("Size of responses", "bytes", "", quantiles("piko_proxy_response_size_bytes", ofNode)...),
			}},
			{title: "Ways to the service", panels: []panel{
				graph("Ways", "reqps", "Requests sent to a tunnel of the node itself, and to another node.", rates("piko_upstreams_upstream_requests_total", ofNode).named("tunnel here"), rates("piko_upstreams_remote_requests_total", ofNode).named("by a hop")),
				graph("Hops by owner", "reqps", "Requests sent to other nodes, by the node that gets them.", rates("piko_upstreams_remote_requests_total", ofNode, "node_id")).stacked(),
				graph("Latency of hops", "s", "From sending a request to another node to the header of the response.", quantiles("piko_proxy_hop_response_seconds", ofNode)...),
				graph("Streams in tunnels", "none", "busy: with a request. idle: kept for the next one.", q("{{state}}", `sum by (state) (piko_upstreams_streams{`+ofNode+`})`), q("under way in tunnels", `sum(piko_upstreams_requests_in_flight{`+ofNode+`})`)),
				graph("Streams that were used again", "percentunit", "Requests that needed no new stream.",
					q("used again", `clamp_min(1 - sum(rate(piko_upstreams_streams_opened_total{`+ofNode+`}[$__rate_interval])) / sum(rate(piko_upstreams_upstream_requests_total{`+ofNode+`}[$__rate_interval])), 0)`)).upTo(1),
				graph("Hops under way", "none", "Requests of other nodes that are being served.", q("{{instance}}", `sum by (instance) (piko_peer_requests_in_flight{`+ofNode+`})`)).stacked(),
			}},
		},
	}
}
