package auth

import (
	"errors"

	"piko/fault"
)

// reason is why a request was refused: the cause of the fault, which the log
// and the metrics show and the client does not see. There are no others, so
// that a metric's label has no more values than these.
type reason string

const (
	reasonMissing        reason = "no-token"
	reasonTwice          reason = "header-twice"
	reasonNoBearer       reason = "no-bearer-token"
	reasonTooLong        reason = "too-long"
	reasonMalformed      reason = "malformed"
	reasonHeader         reason = "header-not-accepted"
	reasonAlgorithm      reason = "algorithm-not-accepted"
	reasonKeyNotNamed    reason = "key-not-named"
	reasonNoKey          reason = "no-key"
	reasonUnknownKey     reason = "unknown-key"
	reasonSignature      reason = "wrong-signature"
	reasonExpired        reason = "expired"
	reasonNotYet         reason = "not-valid-yet"
	reasonIssuedInFuture reason = "issued-in-future"
	reasonAudience       reason = "wrong-audience"
	reasonIssuer         reason = "wrong-issuer"
	reasonNoExpiry       reason = "no-expiry"
	reasonNoEndpoints    reason = "no-endpoints"
	reasonTenant         reason = "unknown-tenant"
	reasonNotPermitted   reason = "endpoint-not-permitted"
	reasonRate           reason = "refused-too-often"
	reasonNoKeySet       reason = "key-set-unavailable"
	reasonOther          reason = "other"
)

// refusal is the cause of a fault: a reason, and whose token it was if that was
// verified.
type refusal struct {
	reason  reason
	subject string
}

func (r *refusal) Error() string { return string(r.reason) }

// refuse is the fault of a token with that reason.
func refuse(r reason) *fault.Error {
	return because(fault.InvalidToken, r)
}

// because is the fault of that code with a reason.
func because(code fault.Code, r reason) *fault.Error {
	return fault.New(code, &refusal{reason: r})
}

// refusalOf is why err refuses.
func refusalOf(err error) refusal {
	if r, ok := errors.AsType[*refusal](err); ok {
		return *r
	}
	switch fault.From(err).Code {
	case fault.EndpointNotPermitted:
		return refusal{reason: reasonNotPermitted}
	case fault.UnknownTenant:
		return refusal{reason: reasonTenant}
	case fault.ExpiredToken:
		return refusal{reason: reasonExpired}
	}
	return refusal{reason: reasonOther}
}
