package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"strings"
	"time"
)

// newStock makes what people would have in their secrets, by the key of the
// configuration that names such a file.
func newStock() (map[string]string, error) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	ecdsaKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	edKey, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		DNSNames: []string{"piko-node"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &ecdsaKey.PublicKey, ecdsaKey)
	if err != nil {
		return nil, err
	}
	private, err := x509.MarshalPKCS8PrivateKey(ecdsaKey)
	if err != nil {
		return nil, err
	}
	cert, secret := pemText("CERTIFICATE", der), strings.Repeat("s", 32)+"\n"
	stock := map[string]string{
		"cert": cert, "key": pemText("PRIVATE KEY", private), "cas": cert, "client_cas": cert, "root_cas": cert,
		"secret_file": secret, "hmac_secret_key_file": secret, "webhook_secret_file": secret, "token_file": "e30.e30.c2ln",
		"headers_file": "authorization: Bearer c2ln\n",
	}
	for name, key := range map[string]crypto.PublicKey{"rsa": &rsaKey.PublicKey, "ecdsa": &ecdsaKey.PublicKey, "eddsa": edKey} {
		if der, err = x509.MarshalPKIXPublicKey(key); err != nil {
			return nil, err
		}
		stock[name+"_public_key_file"] = pemText("PUBLIC KEY", der)
	}
	return stock, nil
}

func pemText(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}
