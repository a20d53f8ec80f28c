// Bodies: JSON, forms, images, text and bytes.
import {el, bytes, redactedText} from './dom.js';

const maxPretty = 300_000; // characters that are coloured; more is plain text
const maxHex = 32_768; // bytes

const isJSON = media => media === 'application/json' || media.endsWith('+json') || media === 'application/x-ndjson';

export function fromBase64(text) {
  return Uint8Array.from(atob(text), c => c.charCodeAt(0));
}

// coloured is JSON, indented, or null if it is none.
export function coloured(text) {
  if (text.length > maxPretty) return null;
  let value;
  try { value = JSON.parse(text); } catch { return null; }
  if (typeof value !== 'object' || value === null) return null;
  const pretty = JSON.stringify(value, null, 2), pre = el('pre');
  let at = 0;
  for (const m of pretty.matchAll(/("(?:[^"\\]|\\.)*")(\s*:)?|\b(?:true|false|null)\b|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g)) {
    pre.append(pretty.slice(at, m.index));
    const kind = m[2] !== undefined ? 'j-key' : m[1] !== undefined ? 'j-str' : 'j-num';
    pre.append(el('span', {class: kind}, redactedText(m[1] ?? m[0])), m[2] ?? '');
    at = m.index + m[0].length;
  }
  pre.append(pretty.slice(at));
  return pre;
}

export function hex(data) {
  const lines = [];
  for (let i = 0; i < Math.min(data.length, maxHex); i += 16) {
    const row = [...data.slice(i, i + 16)];
    const digits = row.map(b => b.toString(16).padStart(2, '0'));
    const text = row.map(b => b >= 32 && b < 127 ? String.fromCharCode(b) : '.').join('');
    lines.push(i.toString(16).padStart(8, '0') + '  ' + digits.slice(0, 8).join(' ').padEnd(23) + '  ' + digits.slice(8).join(' ').padEnd(23) + '  ' + text);
  }
  if (data.length > maxHex) lines.push('... ' + bytes(data.length - maxHex) + ' more');
  return el('pre', {class: 'hex'}, lines.join('\n'));
}

function form(text) {
  const rows = [...new URLSearchParams(text)].map(([name, value]) => el('tr', {}, el('th', {scope: 'row'}, name), el('td', {}, redactedText(value))));
  return el('table', {class: 'fields'}, el('tbody', {}, rows));
}

function image(body) {
  const data = body.base64 ? fromBase64(body.base64) : body.text;
  const url = URL.createObjectURL(new Blob([data], {type: body.media}));
  const img = el('img', {alt: 'the body as an image'});
  img.addEventListener('load', () => URL.revokeObjectURL(url));
  img.addEventListener('error', () => { URL.revokeObjectURL(url); img.replaceWith(el('p', {class: 'tools'}, 'This is no image, or not all of it.')); });
  img.src = url;
  return img;
}

// views are the ways to look at a body, the best first.
export function views(body) {
  const list = [], text = body.text ?? '', data = () => body.base64 ? fromBase64(body.base64) : new TextEncoder().encode(text);
  if (body.media.startsWith('image/')) list.push(['Image', () => image(body)]);
  if (text) {
    const pretty = isJSON(body.media) || /^\s*[[{]/.test(text) ? coloured(text) : null;
    if (pretty) list.push(['JSON', () => pretty]);
    if (body.media === 'application/x-www-form-urlencoded') list.push(['Form', () => form(text)]);
    list.push(['Text', () => el('pre', {}, redactedText(text))]);
  }
  list.push(['Hex', () => hex(data())]);
  return list;
}

const chosen = {}; // the view that was chosen for the request and for the response

// bodyView shows one body; side is request or response.
export function bodyView(side, body) {
  if (!body.size) return el('div', {class: 'body'}, el('p', {class: 'tools'}, 'No body.'));
  const list = views(body), slot = el('div'), buttons = [];
  const show = name => {
    const view = list.find(v => v[0] === name) ?? list[0];
    slot.replaceChildren(view[1]());
    for (const b of buttons) b.setAttribute('aria-pressed', String(b.textContent === view[0]));
  };
  for (const [name] of list) buttons.push(el('button', {type: 'button', onclick: () => { chosen[side] = name; show(name); }}, name));
  const notes = [bytes(body.size), body.media];
  if (body.decoded) notes.push('decoded from ' + body.decoded);
  if (body.undecoded) notes.push(body.undecoded + ' cannot be decoded here');
  if (body.kept < body.size) notes.push('only the first ' + bytes(body.kept) + ' are kept');
  show(chosen[side]);
  return el('div', {class: 'body'}, el('p', {class: 'tools'}, el('span', {}, notes.filter(Boolean).join(' · ')), buttons), slot);
}
