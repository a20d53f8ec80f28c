// What the error codes mean to whoever looks at an endpoint.
const meanings = {
	'malformed-request': 'No HTTP that could be read safely; the connection was closed.',
	'missing-endpoint': 'The request names no endpoint, neither by host nor by x-piko-endpoint.',
	'invalid-endpoint': 'No endpoint can have this name.',
	'wrong-protocol': 'A TCP connection to an endpoint that serves HTTP.',
	'missing-authorization': 'The port asks for a token; the request had none.',
	'invalid-authorization': 'The Authorization header could not be read.',
	'unsupported-auth-type': 'The Authorization header is not “Bearer”.',
	'invalid-token': 'The token is of no key that this port knows.',
	'expired-token': 'The token has expired.',
	'unknown-tenant': 'The token’s tenant is not configured.',
	'endpoint-not-permitted': 'The token is not for this endpoint.',
	'forbidden': 'The caller may not do this from where it is.',
	'not-found': 'There is nothing at this path.',
	'reserved-path': 'Paths below /_piko/ are piko’s own.',
	'method-not-allowed': 'The path does not take this method.',
	'request-timeout': 'The client stopped sending its request.',
	'duplicate-tunnel': 'An agent connected to this node twice for one tunnel.',
	'too-large': 'The body is larger than the limit.',
	'uri-too-long': 'The address of the request is too long.',
	'rate-limited': 'More requests than the configured rate allows.',
	'header-too-large': 'The header of the request is too large.',
	'invalid-config': 'A reload found a mistake in the configuration; nothing was changed.',
	'internal': 'piko itself failed; its log has the reason.',
	'no-upstream': 'No agent listens on the endpoint, or none could take the request.',
	'upstream-unreachable': 'The agent’s service could not be reached, or broke off.',
	'overloaded': 'A limit on work in flight was reached; clients shall come back.',
	'draining': 'The node was about to stop; clients shall come back.',
	'auth-unavailable': 'The keys that verify tokens could not be fetched.',
	'upstream-timeout': 'The service did not begin to answer in time.',
	'broken-off': 'The response broke off before its end.',
	'loop-detected': 'The request came by again and again: the service leads back to piko.',
};

// meaning is a sentence about a code; an error without one is the service's own.
export function meaning(code, status) {
	if (code) return Object.hasOwn(meanings, code) ? meanings[code] : 'Unknown to this page: see the documentation of the node’s version.';
	return status === 499 ? 'The client left before the answer.' : 'The service itself answered with this status.';
}
