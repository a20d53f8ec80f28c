// Package auth says who may use a port: it verifies the tokens (JWT, RFC 7519)
// that requests carry, by keys of the configuration or of a key set (JWKS, RFC
// 7517), and knows what each allows its bearer to do.
//
// A Verifier is for one auth section of the configuration: token in, Grant out.
// A Guard is for one port: it finds the token and the tenant of a request,
// chooses the Verifier, counts and logs refusals, and slows down whoever is
// refused again and again.
//
// The order of what is done with a token matters. Its length and shape are
// looked at before anything is decoded; its header says which of the configured
// families of keys may have signed it, and each family has a parser of its own
// that takes the family's algorithms and no others; so no header makes a public
// key a secret (RFC 8725, section 3.1). The signature comes before the claims.
// What was verified once is kept until it expires, or until the keys change.
package auth
