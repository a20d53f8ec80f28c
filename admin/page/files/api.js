// Requests to the status API, and its stream. Paths are relative to the page, so that the
// port may be below a path of something in front.

const key = 'piko-token';
let token = sessionStorage.getItem(key) || ''; // of this tab alone

export const hasToken = () => token !== '';

export function setToken(t) {
	token = t;
	if (t) sessionStorage.setItem(key, t);
	else sessionStorage.removeItem(key);
}

// Refused is an answer that is none: code is the machine-readable word of the API.
export class Refused extends Error {
	constructor(status, code, text) {
		super(text || 'the node answers ' + status);
		this.status = status;
		this.code = code || '';
	}
}

async function send(path, options) {
	const headers = { Accept: options.accept || 'application/json' };
	if (token) headers.Authorization = 'Bearer ' + token;
	const res = await fetch(path, { method: options.method || 'GET', headers, signal: options.signal, cache: 'no-store', credentials: 'same-origin', redirect: 'error' });
	if (res.ok) return res;
	let body = {};
	try { body = await res.json(); } catch { /* not ours */ }
	throw new Refused(res.status, body.code, body.error);
}

// call asks for JSON; null is an answer without a body. It gives up after 15 s.
export async function call(path, { method, signal } = {}) {
	const limit = AbortSignal.timeout(15000);
	try {
		const res = await send(path, { method, signal: signal ? AbortSignal.any([signal, limit]) : limit });
		const text = await res.text();
		return text ? JSON.parse(text) : null;
	} catch (e) {
		if (limit.aborted && !signal?.aborted) throw new Error('no answer within 15 s');
		if (e instanceof TypeError) throw new Error('the node cannot be reached');
		throw e;
	}
}

// query is a query string of the parameters that are not empty.
export function query(params) {
	return new URLSearchParams(Object.entries(params).filter(([, v]) => v !== '' && v !== undefined && v !== null)).toString();
}

// events reads a stream of server-sent events; alive is called for all that comes.
async function events(body, alive, on) {
	const reader = body.pipeThrough(new TextDecoderStream()).getReader();
	let rest = '', event = '', data = [];
	for (;;) {
		const { value, done } = await reader.read();
		if (done) return;
		alive();
		const lines = (rest + value).split(/\r?\n/);
		rest = lines.pop();
		for (const line of lines) {
			if (line === '') {
				if (data.length) on(event || 'message', JSON.parse(data.join('\n')));
				event = '', data = [];
			} else if (line.startsWith('event:')) event = line.slice(6).trim();
			else if (line.startsWith('data:')) data.push(line.slice(5));
		}
	}
}

const pause = (ms, signal) => new Promise(done => {
	const timer = setTimeout(done, ms);
	signal.addEventListener('abort', () => { clearTimeout(timer); done(); }, { once: true });
});

// live keeps a stream of /status/live open until the signal is aborted. While there is none
// it asks for the same by itself, so that a node with too many viewers is shown as well.
// on(event, data) gets what comes; failed(error) hears why nothing does.
export async function live(params, asks, signal, on, failed) {
	for (let wait = 500; !signal.aborted; wait = Math.min(wait * 2, 8000)) {
		const attempt = new AbortController();
		let timer;
		const alive = () => {
			clearTimeout(timer);
			timer = setTimeout(() => attempt.abort(), 10000);
		};
		try {
			alive();
			const res = await send('status/live?' + query(params), { accept: 'text/event-stream', signal: AbortSignal.any([signal, attempt.signal]) });
			await events(res.body, alive, (event, data) => {
				wait = 250;
				on(event, data);
			});
		} catch (e) {
			if (signal.aborted) return;
			failed(e);
			if (e instanceof Refused && e.status === 401) return;
			for (const [event, path] of e instanceof Refused ? asks : []) {
				try { on(event, await call(path, { signal })); } catch { /* said already */ }
			}
		} finally {
			clearTimeout(timer);
			attempt.abort();
		}
		await pause(wait * (0.5 + Math.random()), signal);
	}
}
