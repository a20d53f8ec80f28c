package main

import (
	"fmt"
	"strings"
)

// Short ways to the panels that dashboards have most of.

func stat(title, unit, description, expr string, thresholds ...threshold) panel {
	return panel{title: title, description: description, kind: "stat", unit: unit, width: 4, height: 4, queries: []query{{expr: expr, legend: title}}, thresholds: thresholds}
}

func graph(title, unit, description string, queries ...query) panel {
	return panel{title: title, description: description, kind: "timeseries", unit: unit, width: 12, height: 8, queries: queries}
}

func (p panel) stacked() panel                { p.stack = true; return p }
func (p panel) upTo(v any) panel              { p.max = v; return p }
func (p panel) limits(l ...threshold) panel   { p.thresholds = l; return p }
func (p panel) withExemplars() panel          { p.exemplars = true; return p }
func (p panel) digits(n int) panel            { p.decimals = n; return p }
func (p panel) valueNames(m ...object) panel  { p.mappings = append(p.mappings, m...); return p }
func (p panel) transformed(t ...object) panel { p.transformations = t; return p }

func q(legend, expr string) query { return query{expr: expr, legend: legend} }

// bad is red from a value on, and orange from another.
func bad(orange, red float64) []threshold {
	return []threshold{{nil, "green"}, {orange, "orange"}, {red, "red"}}
}

// quantiles of a histogram; by are labels to have a line for each of, beside the quantile.
func quantiles(metric, selector string, by ...string) (queries []query) {
	var legend strings.Builder
	for _, label := range by {
		legend.WriteString(" {{" + label + "}}")
	}
	for _, quantile := range []string{"0.5", "0.9", "0.99"} {
		queries = append(queries, q("p"+strings.TrimPrefix(quantile+"0", "0.")[:2]+legend.String(),
			fmt.Sprintf("histogram_quantile(%s, sum by (%s) (rate(%s_bucket{%s}[$__rate_interval])))", quantile, strings.Join(append([]string{"le"}, by...), ", "), metric, selector)))
	}
	return queries
}

// orZero makes what is not known, since nothing has happened, 0.
func orZero(queries []query) []query {
	for i := range queries {
		queries[i].expr = "(" + queries[i].expr + " >= 0) or vector(0)"
	}
	return queries
}

// rates is the rate of a counter, summed up by labels.
func rates(metric, selector string, by ...string) query {
	var legend []string
	for _, label := range by {
		legend = append(legend, "{{"+label+"}}")
	}
	expr := fmt.Sprintf("rate(%s{%s}[$__rate_interval])", metric, selector)
	if len(by) == 0 {
		return q("all", "sum("+expr+")")
	}
	return q(strings.Join(legend, " "), fmt.Sprintf("sum by (%s) (%s)", strings.Join(by, ", "), expr))
}

// named is a query with another legend.
func (q query) named(legend string) query { q.legend = legend; return q }

// happening leaves out what is 0, so that a legend has no lines for what does not happen; there is always one that says none.
func (q query) happening(label string) query {
	q.expr = fmt.Sprintf(`(%s > 0) or label_replace(vector(0), %q, "none", "", "")`, q.expr, label)
	return q
}

// joined makes one table of several queries, each with one value for an instance.
func joined(by string, names map[string]string, order map[string]int, hide ...string) []object {
	exclude := object{"Time": true}
	for _, field := range hide {
		exclude[field] = true
	}
	return []object{
		{"id": "merge", "options": object{}},
		{"id": "organize", "options": object{"excludeByName": exclude, "renameByName": names, "indexByName": order}},
		{"id": "sortBy", "options": object{"fields": object{}, "sort": []object{{"field": by}}}},
	}
}

// column sets the unit of a table's column.
func column(name, unit string, more ...object) object {
	properties := append([]object{{"id": "unit", "value": unit}}, more...)
	return object{"matcher": object{"id": "byName", "options": name}, "properties": properties}
}

// yesNo shows 1 and 0 as words.
func yesNo(yes, no string, bad int) object {
	color := func(v int) string {
		if v == bad {
			return "red"
		}
		return "green"
	}
	return object{"type": "value", "options": object{"1": object{"text": yes, "color": color(1), "index": 0}, "0": object{"text": no, "color": color(0), "index": 1}}}
}
