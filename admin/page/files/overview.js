// The cluster: totals, and its nodes with what they do.
import { query } from './api.js';
import { cellsOf, confirm, count, date, el, keyed, latency, rate, setAttr, setText, span, table } from './dom.js';

// tiles are large numbers that show(object) fills: [label, object => text, object => class].
export function tiles(label, list) {
	const made = list.map(([name, text, kind]) => ({ name, text, kind, value: el('dd', null, '–') }));
	return {
		node: el('dl.tiles', { 'aria-label': label }, ...made.map(t => el('div.tile', null, el('dt', null, t.name), t.value))),
		show(data) {
			for (const t of made) {
				setText(t.value, t.text(data));
				setAttr(t.value, 'class', t.kind?.(data) || null);
			}
		},
	};
}

// loadTiles are those of what goes on.
export const loadTiles = [
	['In flight', t => count(t.in_flight)],
	['Requests/s', t => rate(t.requests_per_second)],
	['Errors/s', t => rate(t.errors_per_second), t => t.errors_per_second > 0 && 'bad'],
	['p50', t => latency(t.p50)],
	['p99', t => latency(t.p99)],
];

const columns = [
	['Node'], ['State', 'state'], ['Version'], ['Up', 'num'], ['Tunnels', 'num'], ['Endpoints', 'num'], ['In flight', 'num'],
	['Requests/s', 'num'], ['Errors/s', 'num'], ['p50', 'num'], ['p99', 'num'], ['Actions', 'act'],
];

export class Overview {
	title = 'Overview';

	constructor(shell, focus) {
		this.shell = shell;
		this.focus = focus; // id of a node to look at
		this.tiles = tiles('Cluster', [
			['Nodes', o => this.nodesText(o)],
			['Endpoints', o => count(o.totals.endpoints)],
			['Tunnels', o => count(o.totals.tunnels)],
			...loadTiles.map(([name, text, kind]) => [name, o => text(o.totals), kind && (o => kind(o.totals))]),
		]);
		this.note = el('p.notice', null, 'Asking the cluster …');
		this.table = table('Nodes', columns);
		this.table.node.hidden = true;
		this.node = el('section', { 'aria-labelledby': 'title' }, el('h1', { id: 'title' }, 'Cluster'), this.tiles.node, el('h2', null, 'Nodes'), this.note, this.table.node);
	}

	nodesText(o) {
		const active = o.nodes.filter(n => n.state === 'active').length;
		return active === o.nodes.length ? count(active) : `${count(active)} of ${count(o.nodes.length)}`;
	}

	update(event, o) {
		if (event !== 'overview') return;
		this.overview = o;
		this.tiles.show(o);
		this.note.hidden = true;
		this.table.node.hidden = false;
		keyed(this.table.body, o.nodes, n => n.id, n => this.row(n));
	}

	failed(e) {
		if (!this.overview) setText(this.note, 'Nothing to show yet: ' + e.message);
	}

	row(first) {
		const cells = cellsOf(columns);
		const id = el('strong'), addr = el('span.sub'), own = el('span.tag', { title: 'The node that this page is from' }, 'this node');
		const version = el('span.cut'), badge = el('span.badge'), drain = el('span.sub');
		const button = el('button.small', { type: 'button', onclick: () => this.drain(this.overview.nodes.find(n => n.id === first.id)) }, 'Drain');
		cells[0].append(el('span.name', null, id, own), addr);
		cells[1].append(badge, drain);
		cells[2].append(version);
		cells[11].append(button);
		const node = el('tr', null, ...cells);
		if (this.focus === first.id) {
			node.classList.add('target');
			queueMicrotask(() => { node.scrollIntoView({ block: 'center' }); button.focus({ preventScroll: true }); });
		}
		const update = n => {
			setText(id, n.id);
			setText(addr, n.admin_addr);
			own.hidden = n.id !== this.overview.node_id;
			setText(badge, n.state);
			badge.dataset.state = n.state;
			setText(drain, n.drain ? this.drainText(n.drain) : '');
			const there = n.state !== 'unreachable', started = date(n.started_at);
			setText(version, n.version || '–');
			setAttr(version, 'title', n.version);
			const texts = [there && started ? span((date(this.overview.time) - started) / 1000) : '–', count(n.tunnels), count(n.endpoints), count(n.in_flight),
				rate(n.requests_per_second), rate(n.errors_per_second), latency(n.p50), latency(n.p99)];
			texts.forEach((t, i) => setText(cells[i + 3], there ? t : '–'));
			cells[8].classList.toggle('bad', there && n.errors_per_second > 0);
			button.hidden = n.state !== 'active';
			setAttr(button, 'aria-label', 'Drain node ' + n.id);
		};
		return { node, update };
	}

	drainText(d) {
		const deadline = date(d.deadline), left = deadline && (deadline - date(this.overview.time)) / 1000;
		if (!d.tunnels_left && !d.requests_left) return 'nothing left: it can be stopped';
		return `${count(d.tunnels_left)} tunnels, ${count(d.requests_left)} requests left` + (left > 0 ? `; cut in ${span(left)}` : '');
	}

	drain(n) {
		if (!n) return;
		const others = this.overview.nodes.filter(o => o.id !== n.id && o.state === 'active').length;
		confirm({
			title: `Drain node ${n.id}?`,
			lines: [
				`It stops being ready, its ${count(n.tunnels)} tunnels move to other nodes, and its ${count(n.in_flight)} requests in flight end. It goes on running until it is stopped, and takes tunnels again once it is restarted.`,
				others ? `${others === 1 ? 'One other node is' : count(others) + ' other nodes are'} active.` : 'No other node is active: nobody is left to serve requests.',
			],
			action: 'Drain ' + n.id,
			run: () => this.shell.call('status/drain?' + query({ forward: n.id === this.overview.node_id ? '' : n.id }), { method: 'POST' }),
		});
	}
}
