// A small chart of the last 15 minutes, with a cursor that shows one moment.
import { clockMinute, clockSecond, el, setText, svg } from './dom.js';

const height = 132, left = 52, right = 8, top = 8, bottom = 20;
// way is the part of a path through points.
const way = points => points.map(([x, y]) => x.toFixed(1) + ' ' + y.toFixed(1)).join('L');

export const spanMs = 15 * 60 * 1000;

// nice is the smallest of 1, 2, 5 times a power of ten that is not below max.
function nice(max) {
	if (!(max > 0)) return 1;
	const power = 10 ** Math.floor(Math.log10(max));
	return [1, 2, 5, 10].map(n => n * power).find(n => n >= max * 0.999);
}

// Chart draws series [{key, label}] of points {t, [key]: number or null}; null is a gap.
export class Chart {
	constructor(title, series, format, axis) {
		this.axis = axis || format;
		this.series = series;
		this.format = format;
		this.points = [];
		this.at = -1; // point of the cursor; -1 is the last
		this.values = series.map(() => el('b'));
		this.when = el('span.when');
		const legend = series.map((s, i) => el('span.key.' + s.key, null, el('i'), series.length > 1 ? s.label + ' ' : '', this.values[i]));
		this.lines = series.map(s => svg('path.line.' + s.key));
		this.areas = series.map(s => svg('path.area.' + s.key));
		this.grid = svg('g.grid');
		this.cursor = svg('line.cursor', { y1: top, y2: height - bottom, visibility: 'hidden' });
		this.dots = series.map(s => svg('circle.mark.' + s.key, { r: 3, visibility: 'hidden' }));
		this.svg = svg('svg', { height, role: 'img', tabindex: '0',
			onpointermove: e => this.point(e), onpointerleave: () => this.move?.(-1), onblur: () => this.move?.(-1), onkeydown: e => this.key(e) },
		this.grid, ...this.areas, ...this.lines, this.cursor, ...this.dots);
		this.title = title;
		this.node = el('figure.chart', null, el('figcaption', null, el('span.title', null, title), el('span.legend', null, this.when, ...legend)), this.svg);
		new ResizeObserver(() => this.draw()).observe(this.node); // ends with the node
	}

	show(points, now) {
		this.points = points;
		this.now = now;
		this.draw();
	}

	x(t) { return left + (t - this.now + spanMs) / spanMs * (this.width - left - right); }
	y(v) { return height - bottom - v / this.max * (height - top - bottom); }

	draw() {
		this.width = this.node.clientWidth;
		if (!this.width || !this.now) return;
		this.svg.setAttribute('viewBox', `0 0 ${this.width} ${height}`);
		this.max = nice(Math.max(0, ...this.points.flatMap(p => this.series.map(s => p[s.key] ?? 0))));
		this.drawGrid();
		this.series.forEach((s, i) => {
			const parts = this.parts(s.key);
			this.lines[i].setAttribute('d', parts.map(p => 'M' + way(p)).join(''));
			const base = height - bottom;
			this.areas[i].setAttribute('d', parts.filter(p => p.length > 1).map(p => `M${p[0][0]} ${base}L${way(p)}L${p.at(-1)[0]} ${base}Z`).join(''));
		});
		this.drawCursor();
		const last = this.points.at(-1);
		this.svg.setAttribute('aria-label', `${this.title}, last 15 minutes: ` + (last ? this.series.map(s => `${s.label} now ${this.format(last[s.key])}, at most ${this.format(Math.max(0, ...this.points.map(p => p[s.key] ?? 0)))}`).join('; ') : 'nothing'));
	}

	// parts are the pieces of a line between its gaps.
	parts(key) {
		const parts = [];
		let part = null, last = 0;
		for (const p of this.points) {
			const gap = p.t - last > 15000;
			last = p.t;
			if (p[key] === null) { part = null; continue; }
			if (!part || gap) parts.push(part = []);
			part.push([this.x(p.t), this.y(p[key])]);
		}
		return parts;
	}

	drawGrid() {
		const key = [this.width, this.max, Math.floor(this.now / 5000)].join();
		if (key === this.gridKey) return;
		this.gridKey = key;
		const nodes = [];
		for (const v of [0, this.max / 2, this.max]) {
			const y = Math.round(this.y(v)) + 0.5, label = svg('text.end', { x: left - 6, y: y + 3.5 }, v === 0 ? '0' : this.axis(v));
			nodes.push(svg('line', { x1: left, x2: this.width - right, y1: y, y2: y }), label);
		}
		const step = 5 * 60 * 1000, offset = new Date(this.now).getTimezoneOffset() * 60000;
		for (let t = Math.ceil((this.now - spanMs - offset) / step) * step + offset; t <= this.now; t += step) {
			const x = this.x(t);
			nodes.push(svg('line', { x1: x, x2: x, y1: top, y2: height - bottom }));
			if (x > left + 14 && x < this.width - right - 14) nodes.push(svg('text.mid', { x, y: height - 5 }, clockMinute(t)));
		}
		this.grid.replaceChildren(...nodes);
	}

	drawCursor() {
		const p = this.points.at(this.at), on = this.at >= 0 && p;
		setText(this.when, on ? clockSecond(p.t) : '');
		this.series.forEach((s, i) => {
			setText(this.values[i], p ? this.format(p[s.key]) : '–');
			const dot = p && typeof p[s.key] === 'number';
			this.dots[i].setAttribute('visibility', dot ? 'visible' : 'hidden');
			if (dot) { this.dots[i].setAttribute('cx', this.x(p.t)); this.dots[i].setAttribute('cy', this.y(p[s.key])); }
		});
		this.cursor.setAttribute('visibility', on ? 'visible' : 'hidden');
		if (on) { this.cursor.setAttribute('x1', this.x(p.t)); this.cursor.setAttribute('x2', this.x(p.t)); }
	}

	point(e) {
		if (!this.points.length) return;
		const t = (e.clientX - this.svg.getBoundingClientRect().left - left) / (this.width - left - right) * spanMs + this.now - spanMs;
		let best = 0;
		this.points.forEach((p, i) => { if (Math.abs(p.t - t) < Math.abs(this.points[best].t - t)) best = i; });
		this.move?.(best);
	}

	key(e) {
		const by = { ArrowLeft: -1, ArrowRight: 1 }[e.key];
		if (!by || !this.points.length) return;
		e.preventDefault();
		this.move?.(Math.max(0, Math.min(this.points.length - 1, (this.at < 0 ? this.points.length - 1 : this.at) + by)));
	}
}
