// The form that edits a request before it is sent again.
import {el} from './dom.js';

const own = new Set(['Content-Length', 'Connection', 'Transfer-Encoding']); // follow from the rest

// editForm calls send with what was changed, and cancel.
export function editForm(d, send, cancel) {
  const isText = !d.request.body.base64 && !d.request.body.undecoded;
  const headers = d.request.headers.filter(([name]) => !own.has(name)).map(([name, value]) => name + ': ' + value).join('\n');
  const text = d.request.body.text ?? '';
  const method = el('input', {'aria-label': 'Method', name: 'method', spellcheck: 'false', autocomplete: 'off'});
  const path = el('input', {'aria-label': 'Path', name: 'path', spellcheck: 'false', autocomplete: 'off'});
  const fields = el('textarea', {name: 'headers', rows: 8, spellcheck: 'false'});
  const body = el('textarea', {name: 'body', rows: 12, spellcheck: 'false', disabled: !isText});
  method.value = d.method;
  path.value = d.path;
  fields.value = headers;
  body.value = isText ? text : 'The body is not text: it is sent as it was.';
  const problem = el('div', {class: 'problem', role: 'alert', hidden: true});
  const submit = async e => {
    e.preventDefault();
    try {
      const change = {method: method.value.trim(), path: path.value.trim(), headers: parseHeaders(fields.value)};
      if (isText && (body.value !== text || d.replay)) change.body = body.value;
      await send(change);
    } catch (err) {
      problem.textContent = err.message;
      problem.hidden = false;
    }
  };
  return el('form', {class: 'edit', onsubmit: submit},
    el('h2', {}, 'Edit and replay #' + d.id), problem,
    el('div', {class: 'line'}, method, path),
    el('label', {}, 'Headers, one a line', fields),
    el('label', {}, 'Body', body),
    el('p', {class: 'dim'}, 'Where it says [redacted], what was there is sent.'),
    el('div', {class: 'actions'}, el('button', {class: 'primary', type: 'submit'}, 'Send'), el('button', {type: 'button', onclick: cancel}, 'Cancel')));
}

function parseHeaders(text) {
  return text.split('\n').filter(line => line.trim()).map(line => {
    const at = line.indexOf(':');
    if (at < 1) throw new Error('Each header is a line like "Name: value"; this is not: ' + line);
    return [line.slice(0, at).trim(), line.slice(at + 1).trim()];
  });
}
