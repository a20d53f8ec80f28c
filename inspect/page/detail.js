// The request that is chosen: what it was, what came of it, and sending it again.
import {$, el, json, api, toast, copy, bytes, duration, fullTime, timeMillis, redactedText} from './dom.js';
import {bodyView, coloured, hex, fromBase64} from './body.js';
import {editForm} from './edit.js';

let shown = null; // the detail that is shown
let editing = false;
let open = {}; // which of the foldable parts are open, by name
export const current = () => shown;
export const isEditing = () => editing;

export const statusClass = x => x.failure && !x.status ? 'failed' : 's' + Math.floor(x.status / 100);
export const statusText = x => x.status ? String(x.status) : x.done ? 'failed' : '···';

// show fetches an exchange and shows it; select is called with the id of a replay.
export async function show(id, select) {
  const d = await json('exchanges/' + id);
  if (editing && shown && shown.id === id) return;
  const same = shown && shown.id === id, top = $('detail-pane').scrollTop;
  editing = false;
  shown = d;
  if (!same) open = {};
  $('detail-pane').replaceChildren(...parts(d, select));
  $('detail-pane').scrollTop = same ? top : 0;
}

export function clear(text) {
  shown = null;
  editing = false;
  $('detail-pane').replaceChildren(el('p', {class: 'none'}, text));
}

function parts(d, select) {
  return [
    el('div', {class: 'title'}, el('button', {id: 'back', type: 'button', onclick: () => document.body.classList.remove('one'), 'aria-label': 'Back to the list'}, '←'),
      el('span', {class: 'method'}, d.method), el('span', {}, redactedText(d.path)), el('span', {class: 'status ' + statusClass(d)}, statusText(d))),
    facts(d, select),
    d.failure ? el('div', {class: 'problem', role: 'alert'}, el('b', {}, 'Failed: '), d.failure) : null,
    actions(d, select),
    frames(d),
    card('Response', d.response, 'response', d.trailers, d.done ? '' : d.status ? 'under way' : 'waiting for the service'),
    card('Request', d.request, 'request', [], d.proto),
  ].filter(Boolean);
}

function fact(name, value) { return value ? el('span', {}, name + ' ', el('b', {}, value)) : null; }

function facts(d, select) {
  return el('p', {class: 'facts'},
    d.replay_of ? el('span', {}, el('span', {class: 'badge'}, d.edited ? 'edited replay' : 'replay'), 'of ',
      el('a', {href: '#', onclick: e => { e.preventDefault(); select(d.replay_of); }}, '#' + d.replay_of)) : null,
    fact('at', fullTime(d.time)), fact('took', duration(d.duration)), d.first_byte ? fact('first byte', duration(d.first_byte)) : null,
    fact('client', d.client), fact('host', d.host), fact('endpoint', d.endpoint), fact('service', d.service));
}

function actions(d, select) {
  return el('div', {class: 'actions'},
    el('button', {type: 'button', class: 'primary', id: 'replay', disabled: d.replay !== '', onclick: () => replay(select)}, 'Replay'),
    el('button', {type: 'button', id: 'edit', disabled: d.replay !== '' && d.kind === 'websocket', onclick: () => edit(select)}, 'Edit and replay'),
    el('button', {type: 'button', id: 'curl', onclick: copyCurl}, 'Copy as curl'),
    el('a', {class: 'button', href: 'api/exchanges/' + d.id + '/har', download: 'piko-' + d.id + '.har'}, 'HAR'),
    d.replay ? el('span', {class: 'why'}, 'It cannot be sent again as it is: ' + d.replay + '.') : null);
}

export async function send(id, change, select) {
  const {id: again} = await json('exchanges/' + id + '/replay', {method: 'POST', headers: {'Content-Type': 'application/json'}, body: JSON.stringify(change)});
  editing = false;
  toast('Sent again as #' + again);
  select(again);
}

export async function replay(select) {
  if (!shown || shown.replay) return;
  try { await send(shown.id, {}, select); } catch (e) { toast(e.message); }
}

export function edit(select) {
  if (!shown) return;
  const d = shown;
  editing = true;
  const done = () => { editing = false; show(d.id, select); };
  $('detail-pane').replaceChildren(editForm(d, change => send(d.id, change, select), done));
  $('detail-pane').querySelector('input').focus();
}

export async function copyCurl() {
  if (!shown) return;
  try {
    await copy(await (await api('exchanges/' + shown.id + '/curl')).text());
    toast('Copied as a curl command');
  } catch (e) { toast('Not copied: ' + e.message); }
}

function fold(name, summary, isOpen, ...content) {
  const d = el('details', {open: open[name] ?? isOpen}, el('summary', {}, summary), content);
  d.addEventListener('toggle', () => { open[name] = d.open; });
  return d;
}

function fields(list) {
  return el('table', {class: 'fields'}, el('tbody', {}, list.map(([name, value]) => el('tr', {}, el('th', {scope: 'row'}, name), el('td', {}, redactedText(value))))));
}

function card(title, message, side, trailers, note) {
  return el('section', {class: 'card', id: side, 'aria-label': title},
    el('h2', {}, title, el('small', {}, note)),
    bodyView(side, message.body),
    message.headers.length ? fold(side + ' headers', 'Headers (' + message.headers.length + ')', true, fields(message.headers)) : null,
    trailers.length ? fold(side + ' trailers', 'Trailers (' + trailers.length + ')', true, fields(trailers)) : null);
}

const names = {websocket: 'WebSocket messages', sse: 'Server-sent events', grpc: 'gRPC messages'};

// frames are the messages of an exchange that has some, the latest last.
function frames(d) {
  const total = d.messages_in + d.messages_out;
  if (!total && !names[d.kind]) return null;
  const note = d.messages_in + ' from the client, ' + d.messages_out + ' to it' + (d.messages_dropped ? ', the first ' + d.messages_dropped + ' no longer kept' : '');
  return el('section', {class: 'card', id: 'messages', 'aria-label': 'Messages'}, el('h2', {}, names[d.kind] ?? 'Messages', el('small', {}, note)),
    el('div', {class: 'frames'}, d.messages.map((m, i) => frame(m, d.messages_dropped + i))));
}

function frame(m, n) {
  const text = m.text ?? '', preview = m.compressed ? 'compressed' : text ? text.slice(0, 200).replace(/\s+/g, ' ') : m.base64 ? 'binary' : '';
  const details = fold('message ' + n, '', false);
  details.querySelector('summary').append(el('span', {class: m.direction, title: m.direction === 'in' ? 'from the client' : 'to the client'}, m.direction === 'in' ? '↑' : '↓'),
    el('span', {class: 'dim at'}, timeMillis(m.time)), el('span', {}, m.kind), el('span', {class: 'dim'}, bytes(m.size)), el('span', {}, preview));
  const content = () => {
    if (!details.open || details.children.length > 1) return;
    const body = el('div', {class: 'body'}, text ? coloured(text) ?? el('pre', {}, redactedText(text)) : hex(m.base64 ? fromBase64(m.base64) : new Uint8Array()));
    if (m.kept < m.size) body.append(el('p', {class: 'tools'}, 'only the first ' + bytes(m.kept) + ' are kept'));
    details.append(body);
  };
  details.addEventListener('toggle', content);
  content();
  return details;
}
