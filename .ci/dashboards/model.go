package main

import "strings"

// object is one of JSON's.
type object = map[string]any

// dashboard is what one of Grafana's shows.
type dashboard struct {
	uid, title, description string
	variables               []variable
	rows                    []row
}

// variable is chosen at the top of a dashboard.
type variable struct {
	name, label string
	query       string // label_values(...)
	many        bool   // several may be chosen, or all
}

type row struct {
	title  string
	panels []panel
}

// panel is one picture. Its width is in 24ths of the page.
type panel struct {
	title, description string
	kind               string // timeseries, stat, table, heatmap
	unit               string
	width, height      int
	queries            []query
	thresholds         []threshold
	max                any // of the axis; nil: it fits
	stack              bool
	transformations    []object
	overrides          []object
	exemplars          bool
	mappings           []object
	decimals           any
}

type threshold struct {
	from  any // nil is everything below the first
	color string
}

type query struct {
	expr, legend string
	instant      bool
}

var datasource = object{"type": "prometheus", "uid": "${datasource}"}

// job is the variable that every query is limited by: the cluster.
func jobVariable(metric string) variable {
	return variable{name: "job", label: "Cluster", query: "label_values(" + metric + ", job)"}
}

// model is the dashboard as Grafana reads it.
func (d dashboard) model(all []dashboard) object {
	variables := []object{{
		"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "hide": 0,
		"current": object{}, "options": []any{}, "includeAll": false, "multi": false, "refresh": 1, "regex": "", "skipUrlSync": false,
	}}
	for _, v := range d.variables {
		variables = append(variables, v.model())
	}
	var links []object
	for _, other := range all {
		if other.uid != d.uid {
			links = append(links, object{"title": other.title, "type": "link", "url": "/d/" + other.uid, "icon": "dashboard", "includeVars": true,
				"keepTime": true, "asDropdown": false, "targetBlank": false, "tags": []string{}, "tooltip": other.description})
		}
	}
	return object{
		"__inputs": []any{},
		"__requires": []object{
			{"type": "grafana", "id": "grafana", "name": "Grafana", "version": "10.0.0"},
			{"type": "datasource", "id": "prometheus", "name": "Prometheus", "version": "1.0.0"},
		},
		"id": nil, "uid": d.uid, "title": d.title, "description": d.description, "tags": []string{"piko"},
		"schemaVersion": 39, "version": 1, "editable": true, "graphTooltip": 1, "fiscalYearStartMonth": 0, "liveNow": false,
		"refresh": "30s", "time": object{"from": "now-1h", "to": "now"}, "timezone": "browser", "weekStart": "",
		"timepicker": object{}, "links": links, "templating": object{"list": variables}, "panels": layOut(d.rows),
		"annotations": object{"list": []object{
			{"builtIn": 1, "datasource": object{"type": "grafana", "uid": "-- Grafana --"}, "enable": true, "hide": true, "iconColor": "rgba(0, 211, 255, 1)", "name": "Annotations & Alerts", "type": "dashboard"},
			{"datasource": datasource, "enable": true, "hide": false, "iconColor": "orange", "name": "Starts", "titleFormat": "{{instance}} has started",
				"expr": `changes(process_start_time_seconds{job="$job"}[$__rate_interval]) > 0`},
		}},
	}
}

func (v variable) model() object {
	m := object{
		"name": v.name, "label": v.label, "type": "query", "datasource": datasource, "definition": v.query, "hide": 0,
		"query": object{"query": v.query, "refId": "PrometheusVariableQueryEditor-VariableQuery"}, "refresh": 2, "regex": "", "sort": 1, "skipUrlSync": false,
		"multi": v.many, "includeAll": v.many, "current": object{}, "options": []any{},
	}
	if v.many {
		m["allValue"] = ".*"
		m["current"] = object{"selected": true, "text": []string{"All"}, "value": []string{"$__all"}}
	}
	return m
}

// layOut gives the panels their places and ids.
func layOut(rows []row) (panels []object) {
	id, y := 0, 0
	next := func() int { id++; return id }
	for _, r := range rows {
		head := object{"id": next(), "type": "row", "title": r.title, "collapsed": false, "panels": []object{}, "gridPos": place(0, y, 24, 1)}
		y++
		x, high := 0, 0
		panels = append(panels, head)
		for _, p := range r.panels {
			if x+p.width > 24 {
				x, y, high = 0, y+high, 0
			}
			panels = append(panels, p.model(next(), place(x, y, p.width, p.height)))
			x, high = x+p.width, max(high, p.height)
		}
		y += high
	}
	return panels
}

func place(x, y, w, h int) object { return object{"x": x, "y": y, "w": w, "h": h} }

func (p panel) model(id int, at object) object {
	var targets []object
	for i, q := range p.queries {
		t := object{"datasource": datasource, "editorMode": "code", "expr": q.expr, "legendFormat": q.legend, "range": !q.instant, "instant": q.instant, "refId": string(rune('A' + i))}
		switch {
		case p.kind == "table":
			t["format"] = "table"
		case p.kind == "heatmap":
			t["format"] = "heatmap"
		}
		if p.exemplars {
			t["exemplar"] = true
		}
		targets = append(targets, t)
	}
	m := object{
		"id": id, "type": p.kind, "title": p.title, "description": p.description, "datasource": datasource, "gridPos": at, "targets": targets,
		"fieldConfig": object{"defaults": p.defaults(), "overrides": orEmpty(p.overrides)}, "options": p.options(),
	}
	if len(p.transformations) > 0 {
		m["transformations"] = p.transformations
	}
	return m
}

func orEmpty(list []object) []object { return append([]object{}, list...) }

// defaults are the settings of all fields.
func (p panel) defaults() object {
	steps := []object{{"color": "green", "value": nil}}
	if p.kind == "timeseries" || p.kind == "table" {
		steps = []object{{"color": "text", "value": nil}}
	}
	if len(p.thresholds) > 0 {
		steps = nil
		for _, t := range p.thresholds {
			steps = append(steps, object{"color": t.color, "value": t.from})
		}
	}
	d := object{"unit": p.unit, "thresholds": object{"mode": "absolute", "steps": steps}, "mappings": orEmpty(p.mappings), "color": object{"mode": "thresholds"}}
	if p.decimals != nil {
		d["decimals"] = p.decimals
	}
	if p.kind != "timeseries" {
		return d
	}
	d["color"] = object{"mode": "palette-classic"}
	d["min"] = 0
	if p.max != nil {
		d["max"] = p.max
	}
	lines := "off"
	if len(p.thresholds) > 0 {
		lines = "dashed"
	}
	stack, fill := "none", 8
	if p.stack {
		stack, fill = "normal", 40
	}
	d["custom"] = object{
		"drawStyle": "line", "lineInterpolation": "linear", "lineWidth": 1, "fillOpacity": fill, "gradientMode": "none", "showPoints": "never", "pointSize": 5,
		"spanNulls": false, "axisPlacement": "auto", "axisLabel": "", "scaleDistribution": object{"type": "linear"},
		"stacking": object{"mode": stack, "group": "A"}, "thresholdsStyle": object{"mode": lines},
	}
	return d
}

func (p panel) options() object {
	switch p.kind {
	case "stat":
		return object{"colorMode": "value", "graphMode": "area", "justifyMode": "auto", "orientation": "auto", "textMode": "auto", "wideLayout": true,
			"reduceOptions": object{"calcs": []string{"lastNotNull"}, "fields": "", "values": false}}
	case "table":
		return object{"showHeader": true, "cellHeight": "sm", "footer": object{"show": false, "reducer": []string{"sum"}, "countRows": false, "fields": ""}}
	case "heatmap":
		return object{"calculate": false, "cellGap": 1, "color": object{"mode": "scheme", "scheme": "Spectral", "steps": 64, "exponent": 0.5, "reverse": true},
			"yAxis": object{"unit": p.unit, "axisPlacement": "left"}, "cellValues": object{"unit": "reqps"}, "filterValues": object{"le": 1e-9}, "legend": object{"show": true},
			"rowsFrame": object{"layout": "auto"}, "tooltip": object{"mode": "single", "show": true, "yHistogram": false}, "showValue": "never", "exemplars": object{"color": "rgba(255,0,255,0.7)"}}
	}
	calcs, mode := []string{"mean", "lastNotNull", "max"}, "table"
	if len(p.queries) == 1 && !strings.Contains(p.queries[0].legend, "{{") {
		calcs, mode = []string{}, "list"
	}
	return object{"legend": object{"displayMode": mode, "placement": "bottom", "showLegend": true, "calcs": calcs}, "tooltip": object{"mode": "multi", "sort": "desc"}}
}
