// Elements and formats. What a server sends is other people's words: it becomes text, and
// never HTML.

// el makes an element: el('td.num', {title: 'x'}, 'text', child). A property that begins
// with "on" is a listener; null, undefined and false leave a property or child out.
export function el(name, props, ...children) {
	const [tag, ...classes] = name.split('.');
	return fill(document.createElement(tag), classes, props, children);
}

// svg is el for drawings.
export function svg(name, props, ...children) {
	const [tag, ...classes] = name.split('.');
	return fill(document.createElementNS('http://www.w3.org/2000/svg', tag), classes, props, children);
}

function fill(node, classes, props, children) {
	if (classes.length) node.classList.add(...classes);
	for (const [k, v] of Object.entries(props || {})) {
		if (k.startsWith('on')) node.addEventListener(k.slice(2), v);
		else if (v !== null && v !== undefined && v !== false) node.setAttribute(k, v === true ? '' : v);
	}
	node.append(...children.filter(c => c !== null && c !== undefined && c !== false));
	return node;
}

const texts = new WeakMap();

// setText writes only what has changed.
export function setText(node, text) {
	text = String(text ?? '');
	if (texts.get(node) === text) return;
	texts.set(node, text);
	node.textContent = text;
}

export function setAttr(node, name, value) {
	if (value === null || value === undefined || value === false) node.removeAttribute(name);
	else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
}

const rows = new WeakMap();

// keyed makes parent's children those of the items, in order, and keeps the elements of
// items that were there before: focus and selection stay. make() returns {node, update}.
export function keyed(parent, items, key, make) {
	const old = rows.get(parent) || new Map(), now = new Map();
	for (const item of items) {
		const k = key(item);
		if (!now.has(k)) now.set(k, { item, row: old.get(k) || make(item) });
	}
	for (const [k, row] of old) if (!now.has(k)) row.node.remove();
	let at = parent.firstElementChild;
	for (const { item, row } of now.values()) {
		if (row.node === at) at = at.nextElementSibling;
		else parent.insertBefore(row.node, at);
		row.update(item);
	}
	rows.set(parent, new Map([...now].map(([k, v]) => [k, v.row])));
}

// table is an empty one that scrolls by itself: columns are [label, class].
export function table(name, columns) {
	const body = el('tbody');
	return { body, node: el('div.scroll', { tabindex: '0', role: 'region', 'aria-label': name }, el('table.cards', null, el('caption.sr', null, name), el('thead', null, el('tr', null,
		...columns.map(([label, kind]) => el('th', { scope: 'col', class: kind }, label === 'Actions' ? el('span.sr', null, label) : label)))), body)) };
}

export const cellsOf = columns => columns.map(([label, kind]) => el('td', { class: kind, 'data-label': label }));

const whole = new Intl.NumberFormat(), one = new Intl.NumberFormat(undefined, { minimumFractionDigits: 1, maximumFractionDigits: 1 });
const two = new Intl.NumberFormat(undefined, { minimumFractionDigits: 2, maximumFractionDigits: 2 });
const none = '–';

const known = n => typeof n === 'number' && isFinite(n);

export function count(n) { return known(n) ? whole.format(n) : none; }

// rate is a number per second.
export function rate(n) {
	if (!known(n)) return none;
	if (n === 0) return '0';
	return n < 0.005 ? '<' + two.format(0.01) : n < 10 ? two.format(n) : n < 100 ? one.format(n) : whole.format(Math.round(n));
}

// latency is seconds; 0 is that there was no request.
export function latency(s) {
	if (!known(s) || s <= 0) return none;
	const ms = s * 1000;
	if (ms < 1) return whole.format(Math.max(1, Math.round(ms * 1000))) + ' µs';
	if (ms < 10) return one.format(ms) + ' ms';
	if (ms < 1000) return whole.format(Math.round(ms)) + ' ms';
	return two.format(s) + ' s';
}

export function bytes(n) {
	if (!known(n)) return none;
	let unit = 0;
	for (; n >= 1000 && unit < 4; unit++) n /= 1000;
	return (unit === 0 ? whole.format(n) : one.format(n)) + ' ' + ['B', 'kB', 'MB', 'GB', 'TB'][unit];
}

// span is how long something has been, in its two largest units.
export function span(seconds) {
	if (!known(seconds)) return none;
	const s = Math.max(0, Math.round(seconds)), units = [['d', 86400], ['h', 3600], ['min', 60], ['s', 1]];
	const i = units.findIndex(([unit, n]) => s >= n || n === 1), [unit, n] = units[i], next = units[i + 1];
	const more = next ? Math.floor(s % n / next[1]) : 0;
	return Math.floor(s / n) + ' ' + unit + (more ? ` ${more} ${next[0]}` : '');
}

const clock = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit', second: '2-digit', hourCycle: 'h23' });
const day = new Intl.DateTimeFormat(undefined, { month: 'short', day: 'numeric', hour: '2-digit', minute: '2-digit', hourCycle: 'h23' });
const full = new Intl.DateTimeFormat(undefined, { dateStyle: 'full', timeStyle: 'long' });
const minute = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit', hourCycle: 'h23' });

// date reads a time of the API; null if it has none.
export function date(text) {
	const d = new Date(text);
	return text && !isNaN(d) && d.getUTCFullYear() > 1 ? d : null;
}

export const clockMinute = ms => minute.format(ms);
export const clockSecond = ms => clock.format(ms);

// setTime shows a time in the viewer's zone: of today the clock, else the day too.
export function setTime(node, text) {
	const d = date(text);
	setText(node, d ? (d.toDateString() === new Date().toDateString() ? clock : day).format(d) : none);
	setAttr(node, 'datetime', d && d.toISOString());
	setAttr(node, 'title', d && full.format(d));
}

export const zone = () => Intl.DateTimeFormat().resolvedOptions().timeZone;

// confirm asks whether to do something, and does it; what goes wrong is shown in place.
export function confirm({ title, lines, action, run }) {
	const error = el('p.error', { role: 'alert' }), yes = el('button.strong.danger', { type: 'submit' }, action);
	const no = el('button', { type: 'button', autofocus: true, onclick: () => box.close() }, 'Cancel');
	const form = el('form', {
		onsubmit: async e => {
			e.preventDefault();
			yes.disabled = true;
			setText(error, '');
			try {
				await run();
				box.close();
			} catch (err) {
				setText(error, err.message);
				yes.disabled = false;
			}
		},
	}, el('h2', { id: 'dialog-title' }, title), ...lines.map(l => el('p', null, l)), error, el('div.buttons', null, no, yes));
	const box = el('dialog', { 'aria-labelledby': 'dialog-title', onclose: () => box.remove() }, form);
	document.body.append(box);
	box.showModal();
}
