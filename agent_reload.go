package main

import (
	"fmt"
	"log/slog"

	"piko/certs"
)

// takeover takes over what an agent that runs with cfg can: the certificates
// and authorities of its connections.
func (parts *agentParts) takeover(cfg agentConfig) takeover {
	connect := connectTakeover(parts.tls, cfg.Connect.TLS, func(next *cli) clientTLSConfig { return next.Agent.Connect.TLS })
	return func(next *cli) (func(), []string, error) {
		commit, applied, err := connect(next)
		if err != nil {
			return nil, nil, err
		}
		commits := []func(){commit}
		for i, service := range parts.services {
			// Other listeners need a restart, but the files of these may have changed.
			tls := cfg.Listeners[i].TLS
			name := fmt.Sprintf("listeners[%d].tls", i)
			commit, changed, err := tls.prepare(service, tls, name)
			if err != nil {
				return nil, nil, err
			}
			commits, applied = append(commits, commit), append(applied, changed...)
		}
		return func() { all(commits) }, applied, nil
	}
}

// expiry watches the certificates that an agent shows.
func (parts *agentParts) expiry(log *slog.Logger) *certs.Expiry {
	e := certs.NewExpiry(log)
	e.AddClient("connect", parts.tls)
	for i, service := range parts.services {
		e.AddClient(fmt.Sprintf("listeners[%d]", i), service)
	}
	return e
}

// connectTakeover takes over the TLS of connections to the server: running,
// which was read as cfg. section finds it in a new configuration.
func connectTakeover(running *certs.Client, cfg clientTLSConfig, section func(*cli) clientTLSConfig) takeover {
	return func(next *cli) (func(), []string, error) {
		to := section(next)
		commit, applied, err := cfg.prepare(running, to, "connect.tls")
		if err != nil || commit == nil {
			return nil, nil, err
		}
		return func() { commit(); cfg = to }, applied, nil
	}
}

// all calls those that are not nil.
func all(commits []func()) {
	for _, commit := range commits {
		if commit != nil {
			commit()
		}
	}
}
