package main

import (
	"errors"
	"slices"
)

// What a running node takes over of a new configuration. Whoever adds to it
// adds the files to serverConfig.files, and a part to server.prepare.

// files are those that a node's configuration names and that are taken over
// when they change.
func (c *serverConfig) files() []string {
	return slices.Concat(c.Proxy.TLS.files(), c.Upstream.TLS.files(), c.Admin.TLS.serverTLSConfig.files(), c.Admin.TLS.Client.files(), c.Cluster.TLS.files(), c.Tracing.TLS.files(), c.Events.files(), c.authFiles())
}

// reloadPart is a part of a new configuration that was checked and loaded, and
// that commit puts in force. It is about the settings that applied names, each
// alone or with a colon and a text; commit may be nil.
type reloadPart struct {
	commit  func()
	applied []string
}

// prepare checks and loads all that can be taken over of next, and changes
// nothing; commit does, and cannot fail. It is called by one goroutine at a
// time, and commit before the next call or never.
func (s *server) prepare(next serverConfig) (commit func(), applied []string, err error) {
	var commits []func()
	var errs []error
	for _, prepare := range []func(*serverConfig) (reloadPart, error){
		s.prepareProxyTLS,
		s.prepareUpstreamTLS,
		s.prepareAdminTLS,
		s.prepareAdminClientTLS,
		s.prepareClusterTLS,
		s.prepareTracingTLS,
		s.prepareAuth,
		s.prepareRouting,
		s.prepareLists,
		s.prepareLimits,
		s.prepareEvents,
	} {
		part, err := prepare(&next)
		errs = append(errs, err)
		commits = append(commits, part.commit)
		applied = append(applied, part.applied...)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, nil, err
	}
	return func() {
		all(commits)
		s.reloaded = &next
	}, applied, nil
}

// was is the configuration that is in force, as far as it can be taken over.
// Owned by who calls prepare.
func (s *server) was() *serverConfig {
	if s.reloaded != nil {
		return s.reloaded
	}
	return &s.cfg
}
