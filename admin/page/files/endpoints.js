// The endpoints of the cluster: searched and sorted by the node, and as many rows in the
// page as fit the screen, however many there are.
import { query } from './api.js';
import { count, el, latency, rate, setAttr, setText } from './dom.js';

const pageSize = 200; // rows of a request
const maxPages = 40; // that are kept
const maxRows = 400000; // browsers have no taller elements than some 10 million pixels
const every = 2000; // ms between looks at what is shown

// Columns: key for sorting if there is one, label, class, text of an endpoint.
const columns = [
	['name', 'Endpoint', 'c-name'],
	['', 'Tenant', 'c-tenant', e => e.tenant || '–'],
	['', 'Nodes', 'c-nodes', e => e.nodes.join(', ')],
	['tunnels', 'Tunnels', 'c-tunnels num', e => count(e.tunnels)],
	['', 'In flight', 'c-flight num', e => count(e.in_flight)],
	['rps', 'Req/s', 'c-rps num', e => rate(e.requests_per_second)],
	['errors', 'Err/s', 'c-errors num', e => rate(e.errors_per_second)],
	['', 'p50', 'c-p50 num', e => latency(e.p50)],
	['p99', 'p99', 'c-p99 num', e => latency(e.p99)],
];

export const endpointLink = (name, tenant) => '#/endpoint/' + encodeURIComponent(name) + (tenant ? '?' + query({ tenant }) : '');

export class Endpoints {
	title = 'Endpoints';

	constructor(shell, params) {
		this.shell = shell;
		this.pages = new Map(); // number → endpoints, the one that was asked for last at the end
		this.asking = new Map(); // number → AbortController
		this.matched = 0;
		this.active = -1; // row with the cursor
		this.rows = [];
		this.build();
		this.go(params);
	}

	build() {
		this.search = el('input', { type: 'search', placeholder: 'Search endpoints', 'aria-label': 'Search endpoints', 'aria-keyshortcuts': '/', spellcheck: 'false', autocapitalize: 'off',
			oninput: () => { clearTimeout(this.typing); this.typing = setTimeout(() => this.change({ search: this.search.value.trim() }), 150); },
			onkeydown: e => {
				if (e.key !== 'ArrowDown' && e.key !== 'Enter') return;
				e.preventDefault();
				clearTimeout(this.typing);
				this.change({ search: this.search.value.trim() });
				this.scroller.focus();
				if (this.active < 0) this.move(0);
			} });
		this.count = el('span.count', { role: 'status' });
		this.heads = columns.map(([key, label, kind]) => {
			const head = el('div', { role: 'columnheader', class: kind });
			head.append(key ? el('button', { type: 'button', onclick: () => this.sortBy(key) }, label) : label);
			return head;
		});
		this.space = el('div.space', { role: 'rowgroup' });
		this.note = el('p.notice', null, 'Asking the cluster …');
		this.scroller = el('div.list', { tabindex: '0', role: 'grid', 'aria-label': 'Endpoints', onscroll: () => this.later(), onkeydown: e => this.key(e), onclick: e => this.click(e) },
			el('div.row.head', { role: 'row', 'aria-rowindex': '1' }, ...this.heads), this.space);
		this.node = el('section.full', { 'aria-labelledby': 'title' }, el('div.bar', null, el('h1', { id: 'title' }, 'Endpoints'), this.search, this.count), this.note, this.scroller);
		this.resized = new ResizeObserver(() => this.later());
	}

	shown() {
		this.resized.observe(this.scroller);
		this.timer = setInterval(() => this.refresh(), 500);
		this.later();
	}

	leave() {
		this.gone = true;
		clearInterval(this.timer);
		clearTimeout(this.typing);
		this.resized.disconnect();
		for (const a of this.asking.values()) a.abort();
	}

	focusSearch() {
		this.search.focus();
		this.search.select();
	}

	// back clears the search, and then leaves its field.
	back(typing) {
		if (this.search.value) {
			this.search.value = '';
			this.change({ search: '' });
		} else if (typing) this.scroller.focus();
		else return false;
		return true;
	}

	// go takes over what the address says.
	go(params) {
		const sort = columns.some(c => c[0] && c[0] === params.get('sort')) ? params.get('sort') : 'name';
		const order = params.get('order') || (sort === 'name' ? 'asc' : 'desc');
		const asked = { search: params.get('search') || '', sort, order: order === 'desc' ? 'desc' : 'asc' };
		if (this.asked && query(asked) === query(this.asked)) return;
		this.asked = asked;
		if (document.activeElement !== this.search) this.search.value = asked.search;
		columns.forEach(([key], i) => key && setAttr(this.heads[i], 'aria-sort', key === sort ? (asked.order === 'asc' ? 'ascending' : 'descending') : 'none'));
		for (const a of this.asking.values()) a.abort();
		this.asking.clear();
		this.old = this.pages; // shown until the new ones are there
		this.pages = new Map();
		this.active = -1;
		this.scroller.scrollTop = 0;
		this.later();
	}

	// change puts something else into the address.
	change(what) {
		const { search, sort, order } = { ...this.asked, ...what };
		history.replaceState(null, '', '#/endpoints' + (search || sort !== 'name' || order !== 'asc' ? '?' + query({ search, sort, order }) : ''));
		this.go(new URLSearchParams(query({ search, sort, order })));
	}

	sortBy(key) {
		const { sort, order } = this.asked;
		this.change({ sort: key, order: key === sort ? (order === 'asc' ? 'desc' : 'asc') : key === 'name' ? 'asc' : 'desc' });
	}

	later() {
		this.frame ||= requestAnimationFrame(() => { this.frame = 0; if (!this.gone) this.draw(); });
	}

	// range is which rows are on the screen.
	range() {
		const first = Math.floor(this.scroller.scrollTop / this.height), fit = Math.ceil(this.scroller.clientHeight / this.height);
		return [Math.max(0, first - 4), Math.min(this.shownRows(), first + fit + 4)];
	}

	shownRows() { return Math.min(this.matched, maxRows); }

	at(i) {
		const n = Math.floor(i / pageSize);
		return (this.pages.get(n) || this.old?.get(n))?.[i % pageSize];
	}

	draw() {
		this.height ||= parseFloat(getComputedStyle(this.scroller).getPropertyValue('--row')) || 36;
		const [from, to] = this.range(), need = to - from;
		while (this.rows.length < need) this.rows.push(this.row());
		// A row keeps its element while it is on the screen: only those that come in are written.
		for (const r of this.rows) r.used = false;
		for (let i = from; i < to; i++) {
			const r = this.rows[i % this.rows.length];
			r.used = true;
			r.show(i, this.at(i));
		}
		for (const r of this.rows) r.node.hidden = !r.used;
		this.space.style.height = this.shownRows() * this.height + 'px';
		setAttr(this.scroller, 'aria-rowcount', this.matched + 1);
		setAttr(this.scroller, 'aria-activedescendant', this.active >= from && this.active < to ? this.rows[this.active % this.rows.length].node.id : null);
		// Rows that are passed quickly are not asked for.
		clearTimeout(this.settle);
		this.settle = setTimeout(() => this.want(false), this.pages.size ? 60 : 0);
	}

	row() {
		const link = el('a', { tabindex: '-1' });
		const cells = columns.map(([, , kind], i) => el('div', { role: 'gridcell', class: kind }, i === 0 ? link : null));
		const r = { node: el('div.row', { role: 'row', id: 'row-' + this.rows.length }, ...cells) };
		r.show = (i, e) => {
			if (r.index !== i) {
				r.index = i;
				r.node.style.transform = `translateY(${i * this.height}px)`;
				setAttr(r.node, 'aria-rowindex', i + 2);
			}
			r.node.classList.toggle('active', i === this.active);
			setAttr(r.node, 'aria-selected', i === this.active ? 'true' : null);
			if (r.endpoint === e) return;
			r.endpoint = e;
			setText(link, e ? e.endpoint : '…');
			setAttr(link, 'href', e && endpointLink(e.endpoint, e.tenant));
			setAttr(link, 'title', e && e.endpoint);
			columns.forEach(([, , , text], n) => text && setText(cells[n], e ? text(e) : ''));
			cells[6].classList.toggle('bad', e?.errors_per_second > 0);
		};
		this.space.append(r.node);
		return r;
	}

	// want asks for the pages on the screen that are not there, or for all of them again.
	async want(again) {
		if (this.gone) return;
		const [from, to] = this.matched ? this.range() : [0, 1];
		const pages = [];
		for (let n = Math.floor(from / pageSize); n <= Math.floor(Math.max(from, to - 1) / pageSize); n++) pages.push(n);
		for (const [n, a] of this.asking) {
			if (!pages.includes(n)) { a.abort(); this.asking.delete(n); }
		}
		await Promise.all(pages.map(n => (again || !this.pages.has(n)) && !this.asking.has(n) && this.fetch(n)));
	}

	async fetch(n) {
		const stop = new AbortController(), asked = this.asked;
		this.asking.set(n, stop);
		try {
			const list = await this.shell.call('status/endpoints?' + query({ cluster: 'true', ...asked, offset: n * pageSize, limit: pageSize }), { signal: stop.signal });
			if (stop.signal.aborted) return;
			this.took(n, list);
		} catch (e) {
			if (stop.signal.aborted || this.shell.refused(e)) return;
			this.note.hidden = false;
			setText(this.note, 'Cannot list the endpoints: ' + e.message);
			this.next = performance.now() + every;
		} finally {
			if (this.asking.get(n) === stop) this.asking.delete(n);
		}
	}

	took(n, list) {
		this.pages.delete(n);
		this.pages.set(n, list.endpoints);
		if (this.pages.size > maxPages) this.pages.delete(this.pages.keys().next().value);
		this.old = null;
		this.matched = list.matched;
		const { search } = this.asked, less = this.matched > maxRows ? `; the first ${count(maxRows)} are listed` : '';
		setText(this.count, (search ? `${count(list.matched)} of ${count(list.total)}` : count(list.total)) + less);
		this.note.hidden = list.matched > 0;
		setText(this.note, list.total === 0 ? 'No agent listens on an endpoint yet.' : `No endpoint has “${search}” in its name.`);
		this.scroller.hidden = false;
		this.shell.partial('endpoints', list.partial);
		if (this.active >= this.shownRows()) this.active = this.shownRows() - 1;
		this.draw();
		clearTimeout(this.settle);
	}

	// refresh looks again at what is shown, not more often than the answers come.
	async refresh() {
		const now = performance.now();
		if (document.hidden || this.refreshing || now < (this.next || 0) || this.asking.size) return;
		this.refreshing = true;
		await this.want(true);
		this.refreshing = false;
		const took = performance.now() - now;
		this.next = Math.max(this.next || 0, now + Math.max(every, 5 * took));
	}

	key(e) {
		if (e.target !== this.scroller) return;
		const page = Math.max(1, Math.floor(this.scroller.clientHeight / this.height) - 2);
		const to = { ArrowDown: this.active + 1, ArrowUp: this.active - 1, PageDown: this.active + page, PageUp: this.active - page, Home: 0, End: this.shownRows() - 1 }[e.key];
		if (to !== undefined) {
			e.preventDefault();
			this.move(to);
		} else if (e.key === 'Enter') this.open(this.active);
	}

	move(to) {
		this.active = Math.max(0, Math.min(this.shownRows() - 1, to));
		const top = this.active * this.height, view = this.scroller.clientHeight - 2 * this.height; // below the head
		if (top < this.scroller.scrollTop) this.scroller.scrollTop = top;
		else if (top > this.scroller.scrollTop + view) this.scroller.scrollTop = top - view;
		this.later();
	}

	open(i) {
		const e = this.pages.get(Math.floor(i / pageSize))?.[i % pageSize]; // not what was there before
		if (e) location.hash = endpointLink(e.endpoint, e.tenant);
	}

	// A click anywhere in a row opens it; the link itself takes care of new tabs.
	click(e) {
		const node = e.target.closest('.row:not(.head)');
		if (!node || e.target.closest('a') || String(getSelection())) return;
		this.open(this.rows.find(r => r.node === node).index);
	}
}
