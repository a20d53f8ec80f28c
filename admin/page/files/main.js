// The page: which view is shown, the stream that feeds it, the token form.
import { Refused, call, hasToken, live, setToken } from './api.js';
import { el, setText, zone } from './dom.js';
import { Overview } from './overview.js';
import { Endpoints } from './endpoints.js';
import { EndpointView } from './endpoint.js';

const $ = id => document.getElementById(id);
const main = $('main');

const state = {
	view: null, kind: '', path: '',
	stream: null, // AbortController of the running stream
	last: 0, // when something came, by performance.now()
	problem: '', // why nothing does
	parts: new Map(), // what asked, and the nodes that did not answer it
};

// shell is what the views may ask of the page.
const shell = {
	// refused shows the token form if that is what an error asks for.
	refused(e) {
		if (!(e instanceof Refused) || e.status !== 401) return false;
		askToken(hasToken() ? e.message : '');
		return true;
	},
	partial(who, list) {
		state.parts.set(who, list || []);
		const nodes = new Map([...state.parts.values()].flat().map(p => [p.node, p.error]));
		$('partial').hidden = nodes.size === 0;
		$('live').classList.toggle('partial', nodes.size > 0);
		setText($('partial'), nodes.size ? 'Incomplete: no answer from ' + [...nodes].map(([n, e]) => `${n} (${e})`).join(', ') + '. What is shown leaves them out.' : '');
	},
	call,
};

// route reads the part of the address behind the #: "/", "/endpoints?search=x&sort=rps",
// "/endpoint/NAME?tenant=T", "/node/ID".
function route() {
	const [path, search] = (location.hash.slice(1) || '/').split('?');
	let parts;
	try { parts = path.split('/').slice(1).map(decodeURIComponent); } catch { parts = ['']; }
	return { kind: parts[0] || '', name: parts[1] || '', params: new URLSearchParams(search || '') };
}

function show() {
	const at = route(), identity = [at.kind, at.name, at.params.get('tenant')].join('\n');
	if (state.view && state.path === identity && state.view.go) return state.view.go(at.params);
	state.view?.leave?.();
	state.path = identity;
	state.parts.clear();
	shell.partial('', []);
	switch (at.kind) {
		case 'endpoints': state.view = new Endpoints(shell, at.params); break;
		case 'endpoint': state.view = new EndpointView(shell, at.name, at.params.get('tenant') || ''); break;
		default: state.view = new Overview(shell, at.kind === 'node' ? at.name : '');
	}
	const overview = state.view instanceof Overview;
	for (const [id, on] of [['nav-overview', overview], ['nav-endpoints', !overview]]) {
		if (on) $(id).setAttribute('aria-current', 'page');
		else $(id).removeAttribute('aria-current');
	}
	document.title = state.view.title + ' · piko';
	document.body.dataset.view = overview ? 'overview' : at.kind;
	main.replaceChildren(state.view.node);
	scrollTo(0, 0);
	state.view.shown?.();
	connect();
}

// connect opens the stream for what is shown now.
function connect() {
	state.stream?.abort();
	state.last = 0;
	state.problem = '';
	$('forget').hidden = !hasToken();
	if (document.hidden) return;
	const stop = state.stream = new AbortController(), view = state.view;
	const on = (event, data) => {
		if (stop.signal.aborted) return;
		state.last = performance.now();
		state.problem = '';
		if (event === 'overview') {
			setText($('asked'), 'via ' + data.node_id);
			shell.partial('overview', data.partial);
		}
		view.update?.(event, data);
		pulse();
	};
	const failed = e => {
		if (stop.signal.aborted) return;
		state.problem = e instanceof TypeError ? 'the node cannot be reached' : e.name === 'AbortError' ? 'the node went silent' : e.message;
		if (!shell.refused(e)) view.failed?.(e);
		pulse();
	};
	const asks = [['overview', 'status/overview?cluster=true'], ...(view.asks || [])];
	// The stream says nothing of an endpoint that nobody serves.
	for (const [event, path] of view.asks || []) call(path, { signal: stop.signal }).then(data => on(event, data), failed);
	live({ cluster: 'true', ...view.stream }, asks, stop.signal, on, failed);
	pulse();
}

// pulse says how old what is shown is.
function pulse() {
	const age = state.last ? (performance.now() - state.last) / 1000 : 0;
	const kind = !state.view ? 'asking' : !state.last ? (state.problem ? 'lost' : 'connecting') : age < 4 ? 'live' : 'stale';
	const text = { live: $('partial').hidden ? 'Live' : 'Incomplete', connecting: 'Connecting', asking: 'Token needed', lost: 'No connection', stale: `Stale: ${Math.round(age)} s` }[kind];
	const node = $('live');
	if (node.dataset.state !== kind) {
		node.dataset.state = kind;
		setText($('live-say'), text.replace(/:.*/, ''));
	}
	node.title = state.problem || 'Numbers come once a second';
	document.body.classList.toggle('stale', kind === 'stale' || kind === 'lost');
	setText($('live-text'), text);
}

function askToken(why) {
	if (document.querySelector('.token')) return;
	state.stream?.abort();
	state.view?.leave?.();
	state.path = '';
	const input = el('input', { type: 'password', id: 'token', autocomplete: 'off', spellcheck: 'false', required: true, 'aria-describedby': 'token-why' });
	const form = el('form.token', {
		onsubmit: e => {
			e.preventDefault();
			setToken(input.value.trim());
			show();
		},
	},
		el('h1', null, 'This node asks for a token'),
		el('p', null, 'A token that its admin port accepts (',  el('code', null, '--admin.auth…'), '). It is kept in this tab and forgotten when the tab is closed.'),
		el('label', { for: 'token' }, 'Token'), input,
		el('p.error', { id: 'token-why', role: 'alert' }, why ? 'Refused: ' + why : ''),
		el('button.strong', { type: 'submit' }, 'Continue'));
	state.view = null;
	main.replaceChildren(form);
	input.focus();
	pulse();
}

addEventListener('hashchange', show);
addEventListener('visibilitychange', () => {
	if (!state.view) return;
	if (document.hidden) state.stream?.abort();
	else connect();
});
setInterval(pulse, 1000);

$('forget').addEventListener('click', () => {
	setToken('');
	state.view?.leave?.();
	state.path = '';
	show();
});

// Keys: those that a form field wants are its own.
addEventListener('keydown', e => {
	if (e.defaultPrevented || e.ctrlKey || e.metaKey || e.altKey || document.querySelector('dialog, .token')) return;
	const typing = e.target instanceof HTMLInputElement;
	if (e.key === '/' && !typing) {
		e.preventDefault();
		if (!(state.view instanceof Endpoints)) {
			location.hash = '#/endpoints';
			show();
		}
		state.view.focusSearch();
	} else if (e.key === 'Escape' && state.view?.back) {
		if (state.view.back(typing)) e.preventDefault();
	}
});

setText($('zone'), 'Times: ' + zone());
show();
