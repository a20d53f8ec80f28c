// One endpoint: its load, its last 15 minutes, its tunnels on every node, and what failed.
import { query } from './api.js';
import { Chart, spanMs } from './chart.js';
import { meaning } from './codes.js';
import { bytes, cellsOf, confirm, count, date, el, keyed, latency, rate, setAttr, setText, setTime, table } from './dom.js';
import { loadTiles, tiles } from './overview.js';

const maxTunnels = 500; // rows in the page

const tunnelColumns = [
	['Node'], ['State'], ['Agent'], ['Since'], ['In flight', 'num'], ['Requests', 'num'], ['Bytes in / out', 'num'], ['Errors', 'num'], ['Last error', 'wide'], ['Actions', 'act'],
];
const errorColumns = [['Time'], ['Code'], ['What it means', 'wide'], ['Status', 'num'], ['Came in at'], ['Tunnel'], ['Detail', 'wide']];

export class EndpointView {
	constructor(shell, name, tenant) {
		this.shell = shell;
		this.name = name;
		this.title = name;
		this.stream = { endpoint: name, tenant };
		this.path = 'status/endpoints/' + encodeURIComponent(name) + '?' + query({ cluster: 'true', tenant });
		this.asks = [['endpoint', this.path]];
		this.tiles = tiles('Now', [['Tunnels', e => count(e.tunnels)], ['Nodes', e => count(e.nodes.length)], ...loadTiles]);
		this.charts = [
			new Chart('Requests per second', [{ key: 'requests', label: 'requests' }], rate, count),
			new Chart('Errors per second', [{ key: 'errors', label: 'errors' }], rate, count),
			new Chart('Latency', [{ key: 'p50', label: 'p50' }, { key: 'p99', label: 'p99' }], latency),
		];
		for (const c of this.charts) {
			c.move = i => {
				for (const other of this.charts) { other.at = i; other.drawCursor(); }
			};
		}
		this.note = el('p.notice', null, 'Asking the cluster …');
		this.tunnels = table('Tunnels', tunnelColumns);
		this.errors = table('Recent errors', errorColumns);
		this.noTunnels = el('p.notice', { hidden: true });
		this.noErrors = el('p.notice', { hidden: true }, 'None: no request to this endpoint has failed lately.');
		this.content = el('div', { hidden: true }, this.tiles.node, el('div.charts', null, ...this.charts.map(c => c.node)),
			el('h2', null, 'Tunnels'), this.noTunnels, this.tunnels.node, el('h2', null, 'Recent errors'), this.noErrors, this.errors.node);
		this.node = el('section', { 'aria-labelledby': 'title' }, el('nav.crumbs', { 'aria-label': 'Where' }, el('a', { href: '#/endpoints' }, 'Endpoints')),
			el('h1', { id: 'title' }, name, tenant && el('span.tag', { title: 'Tenant' }, tenant)), this.note, this.content);
	}

	back() {
		location.hash = '#/endpoints';
		return true;
	}

	update(event, data) {
		if (event === 'overview') {
			this.here = data.node_id;
			this.now = date(data.time);
			if (!this.seen || performance.now() - this.seen < 5000) return;
			this.note.hidden = false;
			setText(this.note, 'No agent listens on this endpoint any more: what is shown is old.');
			return;
		}
		if (event !== 'endpoint') return;
		this.seen = performance.now();
		this.note.hidden = true;
		this.content.hidden = false;
		this.shell.partial('endpoint', data.partial);
		this.tiles.show(data);
		this.draw(data.history);
		this.list(data);
	}

	failed(e) {
		if (this.seen) return;
		setText(this.note, e.status === 404 ? 'No agent listens on this endpoint. The page looks again by itself.' : 'Nothing to show yet: ' + e.message);
	}

	draw(history) {
		const interval = history.interval || 5;
		const points = history.points.map(p => ({ t: date(p.time)?.getTime() ?? 0, requests: p.requests / interval, errors: p.errors / interval, p50: p.p50 || null, p99: p.p99 || null }));
		const now = points.at(-1)?.t ?? this.now?.getTime() ?? Date.now();
		const shown = points.filter(p => p.t > now - spanMs);
		for (const c of this.charts) c.show(shown, now);
	}

	list(data) {
		const ups = data.upstreams;
		this.noTunnels.hidden = ups.length > 0 && ups.length <= maxTunnels;
		setText(this.noTunnels, ups.length ? `The first ${count(maxTunnels)} of ${count(ups.length)} are listed.` : 'No tunnel is open.');
		this.tunnels.node.hidden = ups.length === 0;
		keyed(this.tunnels.body, ups.slice(0, maxTunnels), u => u.id, u => this.tunnelRow(u));
		this.noErrors.hidden = data.recent_errors.length > 0;
		this.errors.node.hidden = data.recent_errors.length === 0;
		const seen = new Map(); // errors have no id: what is the same counts up
		keyed(this.errors.body, data.recent_errors, e => {
			const key = JSON.stringify(e), n = (seen.get(key) || 0) + 1;
			seen.set(key, n);
			return key + n;
		}, e => this.errorRow(e));
	}

	tunnelRow(first) {
		const cells = cellsOf(tunnelColumns), node = el('a'), since = el('time'), badge = el('span.badge'), weight = el('span.sub', { title: 'Its share of the requests, from 0 to 100' });
		const addr = el('span'), version = el('span.sub.cut'), code = el('code'), why = el('span.sub'), when = el('time');
		const button = el('button.small', { type: 'button', onclick: () => this.disconnect(first) }, 'Disconnect');
		cells[0].append(node);
		cells[1].append(badge, weight);
		cells[2].append(addr, version);
		cells[3].append(since);
		cells[8].append(el('span', null, code, ' ', when), why);
		cells[9].append(button);
		return {
			node: el('tr', null, ...cells),
			update: u => {
				setText(node, u.node);
				setAttr(node, 'href', '#/node/' + encodeURIComponent(u.node));
				setText(addr, u.remote_addr);
				setText(version, u.agent_version || 'unknown version');
				setAttr(version, 'title', [u.agent_version, u.instance && 'Instance ' + u.instance, u.features.length && 'Features: ' + u.features.join(', ')].filter(Boolean).join('\n'));
				setTime(since, u.since);
				const [state, text] = u.draining ? ['draining', 'draining'] : u.weight === 0 ? ['unhealthy', 'unhealthy'] : u.last_error && this.now - date(u.last_error.time) < 60000 ? ['unhealthy', 'failing'] : ['active', 'active'];
				setText(badge, text);
				badge.dataset.state = state;
				setText(weight, u.weight < 100 ? 'weight ' + u.weight : '');
				[count(u.in_flight), count(u.requests), `${bytes(u.bytes_in)} / ${bytes(u.bytes_out)}`, count(u.errors)].forEach((t, i) => setText(cells[4 + i], t));
				cells[7].classList.toggle('bad', u.errors > 0);
				const last = u.last_error;
				setText(code, last ? last.code || 'service' : '');
				setAttr(code, 'title', last && meaning(last.code, 0));
				when.hidden = !last;
				setTime(when, last?.time);
				setText(why, last ? last.detail : '–');
				setAttr(button, 'aria-label', `Disconnect ${u.remote_addr} from ${u.node}`);
			},
		};
	}

	errorRow(e) {
		const cells = cellsOf(errorColumns), when = el('time');
		setTime(when, e.time);
		cells[0].append(when);
		cells[1].append(el('code', null, e.code || (e.status === 499 ? 'client' : 'service')));
		const node = el('a', { href: '#/node/' + encodeURIComponent(e.node) }, e.node);
		[null, null, meaning(e.code, e.status), e.status, node, e.upstream || '–', e.detail || '–'].forEach((t, i) => t !== null && cells[i].append(t));
		return { node: el('tr', null, ...cells), update: () => setTime(when, e.time) };
	}

	disconnect(u) {
		confirm({
			title: `Disconnect ${u.remote_addr}?`,
			lines: [`Its tunnel for ${u.endpoint} at node ${u.node} gets no more requests, and ends when those in flight have. An agent connects again by itself.`],
			action: 'Disconnect',
			run: () => this.shell.call(`status/upstreams/${encodeURIComponent(u.id)}/disconnect?` + query({ forward: u.node === this.here ? '' : u.node }), { method: 'POST' }),
		});
	}
}
