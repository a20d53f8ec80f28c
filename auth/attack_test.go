package auth

import (
	"encoding/base64"
	"errors"
	"maps"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"piko/fault"
)

// wantRefused fails unless the token is refused with that reason.
func wantRefused(t *testing.T, v *Verifier, token string, code fault.Code, why reason) {
	t.Helper()
	g, err := v.Verify(token)
	switch {
	case err == nil:
		t.Errorf("the token is good for %+v, want it refused: %s", g.claims, why)
	case !errors.Is(err, code) || refusalOf(err).reason != why:
		t.Errorf("refused with %v, want %s: %s", err, code, why)
	}
}

// zeroSignature is a token for a public key that ECDSA without its checks takes:
// r and s are zero.
func zeroSignature(alg string, size int) string {
	return b64(`{"alg":"`+alg+`","typ":"JWT"}`) + "." + b64(`{"sub":"x"}`) + "." + base64.RawURLEncoding.EncodeToString(make([]byte, 2*size))
}

// TestForgedTokensAreRefused is about tokens that nobody signed who may.
func TestForgedTokensAreRefused(t *testing.T) {
	k := testKeys()
	v := newVerifier(t, everyKey())
	claims := object{"exp": inHour()}
	unsigned := func(header string) string { return b64(header) + "." + b64(toJSON(claims)) + "." }
	swapped := func(alg string) string { // a good signature, and another algorithm in the header
		parts := strings.Split(sign(t, "RS256", k.rsa, claims, nil), ".")
		return b64(`{"alg":"`+alg+`","typ":"JWT"}`) + "." + parts[1] + "." + parts[2]
	}
	tests := []struct {
		name, token string
		why         reason
	}{
		{"alg none", unsigned(`{"alg":"none"}`), reasonAlgorithm},
		{"alg None", unsigned(`{"alg":"None"}`), reasonAlgorithm},
		{"alg nOnE", unsigned(`{"alg":"nOnE"}`), reasonAlgorithm},
		{"alg empty", unsigned(`{"alg":""}`), reasonAlgorithm},
		{"alg missing", unsigned(`{"typ":"JWT"}`), reasonAlgorithm},
		{"alg null", unsigned(`{"alg":null}`), reasonAlgorithm},
		{"alg a number", unsigned(`{"alg":256}`), reasonAlgorithm},
		{"alg a list", unsigned(`{"alg":["HS256"]}`), reasonAlgorithm},
		{"alg in lower case", unsigned(`{"alg":"hs256"}`), reasonAlgorithm},
		{"alg by another name", signRaw(t, `{"Alg":"HS256"}`, `{}`, k.secret), reasonAlgorithm},
		{"alg unknown", unsigned(`{"alg":"XS256"}`), reasonAlgorithm},
		{"alg of encryption", unsigned(`{"alg":"RSA-OAEP"}`), reasonAlgorithm},
		{"HS256 with the RSA public key as secret", sign(t, "HS256", []byte(publicPEM(k.rsa)), claims, nil), reasonSignature},
		{"HS256 with the RSA public key as secret, without its last line end", sign(t, "HS256", []byte(strings.TrimSpace(publicPEM(k.rsa))), claims, nil), reasonSignature},
		{"HS256 with the ECDSA public key as secret", sign(t, "HS256", []byte(publicPEM(k.es256)), claims, nil), reasonSignature},
		{"HS256 with the empty secret", sign(t, "HS256", []byte{}, claims, nil), reasonSignature},
		{"ES256 with r and s of zero", zeroSignature("ES256", 32), reasonSignature},
		{"ES384 with r and s of zero", zeroSignature("ES384", 48), reasonSignature},
		{"ES512 with r and s of zero", zeroSignature("ES512", 66), reasonSignature},
		{"ES256 in the length of ES384", zeroSignature("ES256", 48), reasonSignature},
		{"RS256 as PS256", swapped("PS256"), reasonSignature},
		{"RS256 as RS384", swapped("RS384"), reasonSignature},
		{"RS256 as HS256", swapped("HS256"), reasonSignature},
		{"RS256 as ES256", swapped("ES256"), reasonSignature},
		{"RS256 as EdDSA", swapped("EdDSA"), reasonSignature},
		{"another secret", sign(t, "HS256", []byte(k.otherSecret), claims, nil), reasonSignature},
		{"another RSA key", sign(t, "RS256", k.otherRSA, claims, nil), reasonSignature},
		{"crit", sign(t, "HS256", []byte(k.secret), claims, object{"crit": []string{"exp"}}), reasonHeader},
		{"crit empty", sign(t, "HS256", []byte(k.secret), claims, object{"crit": []string{}}), reasonHeader},
		{"b64", sign(t, "HS256", []byte(k.secret), claims, object{"b64": false, "crit": []string{"b64"}}), reasonHeader},
		{"an embedded key", sign(t, "RS256", k.otherRSA, claims, object{"jwk": rsaJWK("", k.otherRSA)}), reasonHeader},
		{"jku", sign(t, "RS256", k.otherRSA, claims, object{"jku": "https://attacker.example/keys"}), reasonHeader},
		{"x5u", sign(t, "RS256", k.otherRSA, claims, object{"x5u": "https://attacker.example/cert"}), reasonHeader},
		{"kid a list", sign(t, "HS256", []byte(k.secret), claims, object{"kid": []string{"a"}}), reasonHeader},
		{"kid long", sign(t, "HS256", []byte(k.secret), claims, object{"kid": strings.Repeat("k", 257)}), reasonHeader},
		{"kid a file, signed with what is in it", sign(t, "HS256", []byte{}, claims, object{"kid": "../../dev/null"}), reasonSignature},
		{"kid SQL", sign(t, "HS256", []byte(k.otherSecret), claims, object{"kid": "x' UNION SELECT 'key'--"}), reasonSignature},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { wantRefused(t, v, tt.token, fault.InvalidToken, tt.why) })
	}
}

// TestAlgorithmsOfOtherKeysAreRefused has one kind of key alone: tokens of all
// other algorithms have none to be verified by, whatever signed them.
func TestAlgorithmsOfOtherKeysAreRefused(t *testing.T) {
	k := testKeys()
	tokens := map[string]string{}
	for alg, key := range map[string]any{"HS256": []byte(k.secret), "RS256": k.rsa, "ES256": k.es256, "ES384": k.es384, "ES512": k.es512, "EdDSA": k.ed} {
		tokens[alg] = sign(t, alg, key, object{}, nil)
	}
	for own, cfg := range map[string]Config{
		"HS256": {HMACSecretKeys: []string{k.secret}},
		"RS256": {RSAPublicKeys: []string{publicPEM(k.rsa)}},
		"ES256": {ECDSAPublicKeys: []string{publicPEM(k.es256)}},
		"ES384": {ECDSAPublicKeys: []string{publicPEM(k.es384)}},
		"ES512": {ECDSAPublicKeys: []string{publicPEM(k.es512)}},
		"EdDSA": {EdDSAPublicKeys: []string{publicPEM(k.ed)}},
	} {
		v := newVerifier(t, cfg)
		for alg, token := range tokens {
			if alg == own {
				if _, err := v.Verify(token); err != nil {
					t.Errorf("%s with its own key: %v", alg, err)
				}
				continue
			}
			wantRefused(t, v, token, fault.InvalidToken, reasonNoKey)
		}
	}
}

// TestClaimsAreChecked is about tokens with a good signature that say that they
// are not for us, or not for now.
func TestClaimsAreChecked(t *testing.T) {
	k := testKeys()
	synctest.Test(t, func(t *testing.T) {
		cfg := Config{HMACSecretKeys: []string{k.secret}, Audience: []string{"piko", "other"}, Issuer: []string{"idp", "idp2"}}
		now := time.Now().Unix()
		good := func(changed object) string {
			c := object{"exp": now + 60, "aud": "piko", "iss": "idp"}
			maps.Copy(c, changed)
			return toJSON(c)
		}
		tests := []struct {
			name, claims string
			code         fault.Code // "" is good
			why          reason
		}{
			{"all as it should be", good(nil), "", ""},
			{"no exp", good(object{"exp": nil}), "", ""},
			{"exp in the leeway", good(object{"exp": now - 29}), "", ""},
			{"exp at the end of the leeway", good(object{"exp": now - 30}), fault.ExpiredToken, reasonExpired},
			{"exp long ago", good(object{"exp": 1}), fault.ExpiredToken, reasonExpired},
			{"exp zero", good(object{"exp": 0}), fault.ExpiredToken, reasonExpired},
			{"exp negative", good(object{"exp": -1}), fault.InvalidToken, reasonMalformed},
			{"exp a string", good(object{"exp": "9999999999"}), fault.InvalidToken, reasonMalformed},
			{"exp a fraction", `{"aud":"piko","iss":"idp","exp":9999999999.5}`, "", ""},
			{"exp a fraction that is over", `{"aud":"piko","iss":"idp","exp":900000000.999999}`, fault.ExpiredToken, reasonExpired},
			{"exp a fraction without digits", `{"aud":"piko","iss":"idp","exp":9999999999.}`, fault.InvalidToken, reasonMalformed},
			{"exp a fraction with an exponent", `{"aud":"piko","iss":"idp","exp":9.9999999995e9}`, fault.InvalidToken, reasonMalformed},
			{"exp a fraction below zero", `{"aud":"piko","iss":"idp","exp":-0.5}`, fault.InvalidToken, reasonMalformed},
			{"exp a fraction beyond all times", `{"aud":"piko","iss":"idp","exp":253402300799.5}`, fault.InvalidToken, reasonMalformed},
			{"iat a fraction in the future", `{"aud":"piko","iss":"idp","iat":9999999999.5}`, fault.InvalidToken, reasonIssuedInFuture},
			{"exp with an exponent", `{"aud":"piko","iss":"idp","exp":1e10}`, fault.InvalidToken, reasonMalformed},
			{"exp beyond all floats", `{"aud":"piko","iss":"idp","exp":1e400}`, fault.InvalidToken, reasonMalformed},
			{"exp beyond int64", `{"aud":"piko","iss":"idp","exp":99999999999999999999}`, fault.InvalidToken, reasonMalformed},
			{"exp beyond all calendars", `{"aud":"piko","iss":"idp","exp":253402300800}`, fault.InvalidToken, reasonMalformed},
			{"exp a list", good(object{"exp": []int{1}}), fault.InvalidToken, reasonMalformed},
			{"exp true", good(object{"exp": true}), fault.InvalidToken, reasonMalformed},
			{"exp in the wrong case", good(object{"exp": nil, "EXP": now - 1000}), fault.InvalidToken, reasonMalformed},
			{"nbf in the leeway", good(object{"nbf": now + 30}), "", ""},
			{"nbf in the future", good(object{"nbf": now + 31}), fault.InvalidToken, reasonNotYet},
			{"nbf a fraction", `{"aud":"piko","iss":"idp","nbf":1.5}`, "", ""},
			{"nbf a string", good(object{"nbf": "1"}), fault.InvalidToken, reasonMalformed},
			{"nbf beyond all floats", `{"aud":"piko","iss":"idp","nbf":1e400}`, fault.InvalidToken, reasonMalformed},
			{"iat in the leeway", good(object{"iat": now + 30}), "", ""},
			{"iat in the future", good(object{"iat": now + 31}), fault.InvalidToken, reasonIssuedInFuture},
			{"aud the second that is allowed", good(object{"aud": "other"}), "", ""},
			{"aud one of several", good(object{"aud": []string{"x", "piko"}}), "", ""},
			{"aud missing", good(object{"aud": nil}), fault.InvalidToken, reasonAudience},
			{"aud another", good(object{"aud": "pik"}), fault.InvalidToken, reasonAudience},
			{"aud in another case", good(object{"aud": "Piko"}), fault.InvalidToken, reasonAudience},
			{"aud an empty list", good(object{"aud": []string{}}), fault.InvalidToken, reasonAudience},
			{"aud a number", good(object{"aud": 7}), fault.InvalidToken, reasonMalformed},
			{"aud nested", good(object{"aud": [][]string{{"piko"}}}), fault.InvalidToken, reasonMalformed},
			{"iss the second that is allowed", good(object{"iss": "idp2"}), "", ""},
			{"iss missing", good(object{"iss": nil}), fault.InvalidToken, reasonIssuer},
			{"iss another", good(object{"iss": "idp/"}), fault.InvalidToken, reasonIssuer},
			{"iss a list", good(object{"iss": []string{"idp"}}), fault.InvalidToken, reasonMalformed},
			{"sub a number", good(object{"sub": 7}), fault.InvalidToken, reasonMalformed},
			{"a claim twice", `{"aud":"piko","iss":"idp","exp":1,"exp":9999999999}`, fault.InvalidToken, reasonMalformed},
			{"a claim twice within another", `{"aud":"piko","iss":"idp","piko":{"endpoints":["a"],"endpoints":["b"]}}`, fault.InvalidToken, reasonMalformed},
			{"a claim twice, once with an escape", `{"aud":"piko","iss":"idp","exp":1,"\u0065xp":9999999999}`, fault.InvalidToken, reasonMalformed},
			{"a claim whose name is not UTF-8", "{\"aud\":\"piko\",\"iss\":\"idp\",\"\xe5xp\":1}", fault.InvalidToken, reasonMalformed},
			{"claims null", `null`, fault.InvalidToken, reasonMalformed},
			{"claims a list", `[]`, fault.InvalidToken, reasonMalformed},
			{"claims a string", `"a"`, fault.InvalidToken, reasonMalformed},
			{"claims nothing", ``, fault.InvalidToken, reasonMalformed},
			{"claims with text behind", good(nil) + "{}", fault.InvalidToken, reasonMalformed},
			{"claims nested deep", `{"x":` + strings.Repeat("[", 17) + strings.Repeat("]", 17) + `}`, fault.InvalidToken, reasonMalformed},
			{"claims nested as deep as can be sent", `{"x":` + strings.Repeat("[", 2800) + strings.Repeat("]", 2800) + `}`, fault.InvalidToken, reasonMalformed},
		}
		for _, tt := range tests {
			v := newVerifier(t, cfg)
			token := signRaw(t, `{"alg":"HS256"}`, tt.claims, k.secret)
			t.Log(tt.name)
			if tt.code != "" {
				wantRefused(t, v, token, tt.code, tt.why)
			} else if _, err := v.Verify(token); err != nil {
				t.Errorf("refused with %v", err)
			}
		}
	})
}

// TestRequiredClaims is about the rules that v0.9.0 had not.
func TestRequiredClaims(t *testing.T) {
	k := testKeys()
	v := newVerifier(t, Config{HMACSecretKeys: []string{k.secret}, RequireExpiry: true, RequireEndpoints: true})
	list := object{"endpoints": []string{"a"}}
	for _, tt := range []struct {
		name   string
		claims object
		why    reason
	}{
		{"both", object{"exp": inHour(), "piko": list}, ""},
		{"a list for one thing only", object{"exp": inHour(), "piko": object{"connect": []string{"a"}}}, ""},
		{"no exp", object{"piko": list}, reasonNoExpiry},
		{"no list", object{"exp": inHour()}, reasonNoEndpoints},
		{"an empty list", object{"exp": inHour(), "piko": object{"endpoints": []string{}}}, reasonNoEndpoints},
		{"a list that is null", object{"exp": inHour(), "piko": object{"endpoints": nil}}, reasonNoEndpoints},
	} {
		t.Run(tt.name, func(t *testing.T) {
			token := sign(t, "HS256", []byte(k.secret), tt.claims, nil)
			if tt.why != "" {
				wantRefused(t, v, token, fault.InvalidToken, tt.why)
			} else if _, err := v.Verify(token); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestBrokenTokensAreRefused is about bytes that are no token.
func TestBrokenTokensAreRefused(t *testing.T) {
	k := testKeys()
	v := newVerifier(t, everyKey())
	good := sign(t, "HS256", []byte(k.secret), object{"exp": inHour()}, nil)
	parts := strings.Split(good, ".")
	atLimit := sign(t, "HS256", []byte(k.secret), object{"x": strings.Repeat("x", (maxToken-200)*3/4)}, nil)
	if _, err := v.Verify(atLimit); err != nil || len(atLimit) > maxToken {
		t.Fatalf("a token of %d bytes: %v", len(atLimit), err)
	}
	tests := []struct {
		name, token string
		why         reason
	}{
		{"empty", "", reasonMalformed},
		{"a word", "token", reasonMalformed},
		{"two parts", parts[0] + "." + parts[1], reasonMalformed},
		{"four parts", good + ".x", reasonMalformed},
		{"a dot behind", good + ".", reasonMalformed},
		{"five parts, as encrypted tokens have", "a.b.c.d.e", reasonMalformed},
		{"dots alone", "..", reasonMalformed},
		{"8192 dots", strings.Repeat(".", maxToken), reasonMalformed},
		{"a million dots", strings.Repeat(".", 1_000_000), reasonTooLong},
		{"1 MiB", strings.Repeat("a", 1<<20), reasonTooLong},
		{"1 MiB in the form of a token, well signed", sign(t, "HS256", []byte(k.secret), object{"x": strings.Repeat("x", 1<<20)}, nil), reasonTooLong},
		{"cut", good[:len(good)-3], reasonSignature},
		{"cut in the claims", parts[0] + "." + parts[1][:len(parts[1])-4] + "." + parts[2], reasonMalformed},
		{"cut before the signature", parts[0] + "." + parts[1] + ".", reasonSignature},
		{"padded", parts[0] + "=." + parts[1] + "." + parts[2], reasonMalformed},
		{"a padded signature", good + "=", reasonMalformed},
		{"the other alphabet of base64", parts[0] + "." + parts[1] + "." + strings.Repeat("+/", 21) + "A", reasonMalformed},
		{"bits behind the last byte", good[:len(good)-1] + otherEnd(good[len(good)-1]), reasonMalformed},
		{"a line end inside", parts[0] + "\n." + parts[1] + "." + parts[2], reasonMalformed},
		{"a line end in the signature", good[:len(good)-1] + "\r\n" + good[len(good)-1:], reasonMalformed},
		{"a space inside", parts[0] + "." + parts[1] + " ." + parts[2], reasonMalformed},
		{"a header that is no JSON", b64("x") + "." + parts[1] + "." + parts[2], reasonMalformed},
		{"a header that is null", b64("null") + "." + parts[1] + "." + parts[2], reasonMalformed},
		{"a header that is a list", b64("[]") + "." + parts[1] + "." + parts[2], reasonMalformed},
		{"alg twice in the header", signRaw(t, `{"alg":"none","alg":"HS256"}`, `{}`, k.secret), reasonMalformed},
		{"text behind the header", signRaw(t, `{"alg":"HS256"}x`, `{}`, k.secret), reasonMalformed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { wantRefused(t, v, tt.token, fault.InvalidToken, tt.why) })
	}
}

// otherEnd is a last digit of base64 that decodes to the same bytes, if the
// decoder does not look at the bits behind them.
func otherEnd(c byte) string {
	const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	return string(digits[strings.IndexByte(digits, c)^1])
}
