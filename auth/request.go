package auth

import (
	"net/http"
	"strings"

	"piko/fault"
)

// Headers with a token, in canonical form. Ours wins, so that Authorization is
// left to the service.
const (
	headerOwn           = "X-Piko-Authorization"
	headerAuthorization = "Authorization"
	headerTenant        = "X-Piko-Tenant-Id"
)

// bearerToken finds the token of a request, and the header that holds it. A
// token in the query would end up in logs: it is not looked for (RFC 9700,
// section 4.3.2).
func bearerToken(h http.Header) (token, header string, err error) {
	if len(h[headerOwn]) > 1 || len(h[headerAuthorization]) > 1 {
		return "", "", &fault.Error{Code: fault.MalformedRequest, Detail: "more than one Authorization", Err: &refusal{reason: reasonTwice}}
	}
	header = headerOwn
	values := h[header]
	if len(values) == 0 {
		header = headerAuthorization
		values = h[header]
	}
	if len(values) == 0 || values[0] == "" {
		return "", "", because(fault.MissingAuthorization, reasonMissing)
	}
	scheme, token, ok := strings.Cut(values[0], " ")
	switch {
	case !ok:
		return "", header, because(fault.InvalidAuthorization, reasonNoBearer)
	case !strings.EqualFold(scheme, "Bearer"):
		return "", header, because(fault.UnsupportedAuthType, reasonNoBearer)
	}
	return strings.Trim(token, " "), header, nil
}
