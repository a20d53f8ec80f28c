// The list: what the agent says is new, filtered; keys; and what is chosen.
import {$, el, api, toast, bytes, duration, time, redactedText} from './dom.js';
import * as detail from './detail.js';

const exchanges = new Map(); // by id, in their order
const rows = new Map(); // by id
let chosen = 0; // id; 0 is none

const matchers = {
  failed: x => x.failure || x.status >= 500, replay: x => x.replay_of > 0, pending: x => !x.done,
  websocket: x => x.kind === 'websocket', grpc: x => x.kind === 'grpc', sse: x => x.kind === 'sse',
};

function matches(x, words) {
  return words.every(w => {
    if (Object.hasOwn(matchers, w)) return matchers[w](x);
    if (/^[1-5]xx$/.test(w)) return String(x.status)[0] === w[0];
    if (/^[1-5]\d\d$/.test(w) && x.status === Number(w)) return true;
    return [x.method, x.path, x.host, x.client, x.endpoint].some(s => s.toLowerCase().includes(w));
  });
}

function row(x) {
  const r = el('div', {class: 'row', role: 'option', id: 'x' + x.id, 'aria-selected': String(x.id === chosen)},
    el('span', {class: 'time'}, time(x.time)), el('span', {class: 'method'}, x.method),
    el('span', {class: 'path', title: x.path}, badges(x), redactedText(x.path)),
    el('span', {class: 'status ' + detail.statusClass(x), title: x.failure ?? ''}, detail.statusText(x)),
    el('span', {class: 'took'}, x.done ? duration(x.duration) : ''), el('span', {class: 'size'}, size(x)));
  r.addEventListener('click', () => select(x.id, true));
  return r;
}

const size = x => x.messages_in + x.messages_out ? x.messages_in + x.messages_out + ' msg' : bytes(x.response_bytes);
const kinds = {websocket: 'WS', grpc: 'gRPC', sse: 'SSE', upgrade: 'upgrade'};

function badges(x) {
  const list = [];
  if (x.replay_of) list.push(el('span', {class: 'badge', title: (x.edited ? 'edited replay of #' : 'replay of #') + x.replay_of}, x.edited ? '↻ edited' : '↻'));
  if (kinds[x.kind]) list.push(el('span', {class: 'badge'}, kinds[x.kind]));
  return list;
}

// update takes over what the agent says; it may say it again.
function update(u) {
  for (const id of exchanges.keys()) {
    if (id >= u.first) break;
    exchanges.delete(id);
    rows.get(id)?.remove();
    rows.delete(id);
  }
  for (const x of u.changed) {
    const old = rows.get(x.id), fresh = row(x);
    exchanges.set(x.id, x);
    rows.set(x.id, fresh);
    if (old) old.replaceWith(fresh);
    else $('list').prepend(fresh);
  }
  $('secrets').textContent = u.show_secrets ? 'secrets are shown' : 'secrets are hidden';
  $('endpoints').textContent = u.listeners.map(l => l.endpoint + ' → ' + l.service).join(', ');
  const name = u.listeners[0]?.endpoint ?? 'my-endpoint';
  $('try').textContent = "curl -H 'x-piko-endpoint: " + name + "' http://localhost:8000/";
  apply();
  const newest = shownIds()[0];
  if (chosen && !exchanges.has(chosen)) choose(0);
  if (!chosen && newest) choose(newest);
  else if (chosen && u.changed.some(x => x.id === chosen)) refresh();
}

// apply shows what the filter lets through.
function apply() {
  const words = $('filter').value.toLowerCase().split(/\s+/).filter(Boolean);
  let n = 0, failed = 0;
  for (const [id, x] of exchanges) {
    const ok = matches(x, words);
    rows.get(id).hidden = !ok;
    if (ok) n++;
    if (ok && matchers.failed(x)) failed++;
  }
  const total = exchanges.size;
  $('count').textContent = (words.length ? n + ' of ' + total : String(total)) + (total === 1 ? ' request' : ' requests') + (failed ? ', ' + failed + ' failed' : '');
  $('empty').hidden = total > 0;
}

// shownIds are those that the filter lets through, the latest first.
const shownIds = () => [...exchanges.keys()].filter(id => !rows.get(id).hidden).reverse();

function choose(id) {
  rows.get(chosen)?.setAttribute('aria-selected', 'false');
  chosen = id;
  if (!id) {
    $('list').removeAttribute('aria-activedescendant');
    detail.clear(exchanges.size ? 'Choose a request.' : '');
    return;
  }
  rows.get(id)?.setAttribute('aria-selected', 'true');
  rows.get(id)?.scrollIntoView({block: 'nearest'});
  $('list').setAttribute('aria-activedescendant', 'x' + id);
  refresh();
}

// select is choose by somebody. The id may be one that the list does not have yet.
function select(id, byClick) {
  if (byClick || document.body.classList.contains('one')) document.body.classList.add('one');
  choose(id);
}

async function refresh() {
  const id = chosen;
  try { await detail.show(id, select); } catch (e) { if (id === chosen) toast(e.message); }
}

function move(by) {
  const ids = shownIds(), at = ids.indexOf(chosen);
  const next = ids[Math.min(Math.max(at + by, 0), ids.length - 1)];
  if (next) select(next, false);
}

const keys = {
  j: () => move(1), ArrowDown: () => move(1), k: () => move(-1), ArrowUp: () => move(-1),
  PageDown: () => move(15), PageUp: () => move(-15), Home: () => move(-1e9), End: () => move(1e9),
  r: () => detail.replay(select), e: () => detail.edit(select), c: () => detail.copyCurl(),
  '/': () => $('filter').focus(), Enter: () => $('detail-pane').focus(),
};

addEventListener('keydown', e => {
  if (e.ctrlKey || e.metaKey || e.altKey) return;
  if (e.key === 'Escape') {
    if (e.target === $('filter')) { $('filter').value = ''; apply(); }
    if (detail.isEditing()) detail.current() && [...document.querySelectorAll('form.edit button')].at(-1).click();
    document.body.classList.remove('one');
    $('list').focus();
    return;
  }
  if (e.target.closest('input, textarea')) {
    if (e.target === $('filter') && e.key === 'Enter') $('list').focus();
    return;
  }
  const scrolls = e.key.length > 1;
  if (scrolls && !e.target.closest('#list, body') || e.key === 'Enter' && e.target.closest('button, a, summary')) return;
  if (scrolls && e.key !== 'Enter' && e.target.closest('#detail-pane')) return;
  if (keys[e.key]) { e.preventDefault(); keys[e.key](); }
});

$('filter').addEventListener('input', apply);
$('clear').addEventListener('click', async () => {
  try { await api('exchanges', {method: 'DELETE'}); } catch (e) { toast(e.message); }
});
$('list').focus();

// The agent says what changes; the browser comes back by itself when it is gone.
const source = new EventSource('api/live');
const state = (name, text) => { $('live').dataset.state = name; $('live').textContent = text; };
source.onopen = () => state('live', 'live');
source.onerror = () => state('lost', 'the agent is gone');
source.onmessage = e => update(JSON.parse(e.data));
