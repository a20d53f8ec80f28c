// What all of the page's modules need: elements, texts, and the API.

// el makes an element: text and elements are its children, never markup.
export function el(tag, props = {}, ...children) {
  const e = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith('on')) e.addEventListener(name.slice(2), value);
    else if (name === 'class') e.className = value;
    else if (name in e && typeof value !== 'string') e[name] = value;
    else e.setAttribute(name, value === true ? '' : value);
  }
  e.append(...children.flat().filter(c => c !== null && c !== undefined && c !== false));
  return e;
}

export const $ = id => document.getElementById(id);

let hideToast;
export function toast(text) {
  $('toast').textContent = text;
  $('toast').classList.add('shown');
  clearTimeout(hideToast);
  hideToast = setTimeout(() => $('toast').classList.remove('shown'), 4000);
}

// api calls the agent; its errors say what the agent says.
export async function api(path, options) {
  const r = await fetch('api/' + path, options);
  if (!r.ok) {
    const said = await r.json().catch(() => ({}));
    throw new Error(said.error || 'the agent answered with status ' + r.status);
  }
  return r;
}

export const json = async (path, options) => (await api(path, options)).json();

export function bytes(n) {
  if (n < 1024) return n + ' B';
  if (n < 1024 * 1024) return (n / 1024).toFixed(n < 10240 ? 1 : 0) + ' KiB';
  return (n / 1024 / 1024).toFixed(1) + ' MiB';
}

export function duration(s) {
  if (s < 0.001) return '<1 ms';
  if (s < 1) return Math.round(s * 1000) + ' ms';
  if (s < 60) return s.toFixed(s < 10 ? 2 : 1) + ' s';
  return Math.floor(s / 60) + ' min ' + Math.round(s % 60) + ' s';
}

const clock = new Intl.DateTimeFormat([], {hour: '2-digit', minute: '2-digit', second: '2-digit', hourCycle: 'h23'});
const full = new Intl.DateTimeFormat([], {dateStyle: 'medium', timeStyle: 'long'});
export const time = iso => clock.format(new Date(iso));
export const fullTime = iso => full.format(new Date(iso));
export const timeMillis = iso => time(iso) + '.' + String(new Date(iso).getMilliseconds()).padStart(3, '0');

// redactedText marks where a secret is not shown.
export function redactedText(text) {
  const parts = text.split('[redacted]');
  return parts.flatMap((p, i) => i === 0 ? [p] : [el('span', {class: 'redacted', title: 'begin the agent with --inspect.show-secrets to see it'}, '[redacted]'), p]);
}

export const copy = async text => navigator.clipboard.writeText(text);
