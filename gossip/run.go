package gossip

import (
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// check completes the options and finds what cannot work.
func (o *Options) check() error {
	id, _, err := parseEpoch(o.Epoch)
	if err != nil {
		return err
	}
	if id != o.NodeID {
		return fmt.Errorf("epoch %q is not of node %q", o.Epoch, o.NodeID)
	}
	if o.Table == nil || o.Connect == nil {
		return errors.New("gossip needs a table and a way to connect")
	}
	if len(o.Name) > memberlist.LabelMaxSize {
		return fmt.Errorf("cluster name of %d bytes %w", len(o.Name), errMetaLong)
	}
	o.JoinTimeout = orDefault(o.JoinTimeout, defaultJoinTimeout)
	o.Interval = orDefault(o.Interval, defaultInterval)
	o.MaxPacketSize = orDefault(o.MaxPacketSize, defaultPacketSize)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.resolver == nil {
		o.resolver = net.DefaultResolver
	}
	return meta{proxyAddr: o.ProxyAddr, adminAddr: o.AdminAddr, key: o.Key}.check()
}

func orDefault[T comparable](v, def T) T {
	if v == *new(T) {
		return def
	}
	return v
}

// config is memberlist's.
func (c *Cluster) config() (*memberlist.Config, error) {
	conf := memberlist.DefaultLANConfig()
	conf.Name = c.opt.Epoch
	conf.Label = c.opt.Name
	conf.Transport = c.transport
	conf.BindPort = int(c.transport.advertised().Port()) // for addresses without a port
	conf.ProbeInterval = probeInterval
	conf.ProbeTimeout = probeTimeout
	conf.GossipInterval = c.opt.Interval
	conf.SuspicionMult = 3
	conf.SuspicionMaxTimeoutMult = 3
	conf.TCPTimeout = 5 * time.Second
	conf.PushPullInterval = 30 * time.Second
	conf.GossipToTheDeadTime = gossipToTheDeadTime
	conf.EnableCompression = false // what there is is small
	conf.HandoffQueueDepth = 4096
	conf.UDPBufferSize = c.opt.MaxPacketSize
	conf.RetransmitMult = memberRetransmitMult
	conf.DNSConfigPath = ""
	conf.Delegate = delegate{c}
	conf.Events = membership{c}
	conf.Alive = membership{c}
	conf.Conflict = membership{c}
	conf.Logger = newLogger(c.log)
	ring, err := keyring(c.opt.Secrets)
	conf.Keyring = ring
	return conf, err
}

// keyring derives a key of AES-256 from each secret. It is nil without secrets.
func keyring(secrets []string) (*memberlist.Keyring, error) {
	var keys [][]byte
	for _, s := range secrets {
		key, err := hkdf.Key(sha256.New, []byte(s), nil, "piko gossip v1", 32)
		if err != nil {
			return nil, fmt.Errorf("derive gossip key: %w", err)
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, nil
	}
	return memberlist.NewKeyring(keys, keys[0])
}

// Run joins the cluster and follows the other nodes until ctx ends: then it
// returns nil, without a word to the others unless Leave came before. It fails when
// no node could be joined and one must, and with ErrConflict. It leaves no
// goroutine behind, but memberlist's own may take 2 s to end.
func (c *Cluster) Run(ctx context.Context) error {
	conf, err := c.config()
	if err != nil {
		c.transport.Shutdown()
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	c.mu.Lock()
	c.fail = cancel
	c.mu.Unlock()
	list, err := memberlist.Create(conf)
	if err != nil {
		c.transport.Shutdown()
		return fmt.Errorf("start gossip: %w", err)
	}
	c.list.Store(list)
	if len(c.opt.Secrets) == 0 {
		c.log.Warn("gossip is neither encrypted nor authenticated: use --cluster.secret unless its port is protected")
	}

	var running sync.WaitGroup
	running.Go(func() { c.loop(ctx) })
	running.Go(func() { c.removals.run(ctx) })
	running.Go(func() { c.tellMeta(ctx, list) })
	running.Go(func() {
		if err := c.join(ctx, list); err != nil {
			cancel(err)
		}
	})
	<-ctx.Done()
	c.shutdown(list)
	running.Wait()
	c.followers.Wait()
	close(c.stopped)
	if err := context.Cause(ctx); errors.Is(err, errJoin) || errors.Is(err, ErrConflict) {
		return err
	}
	return nil
}

func (c *Cluster) shutdown(list *memberlist.Memberlist) {
	c.life <- struct{}{}
	defer func() { <-c.life }()
	c.over = true
	if err := list.Shutdown(); err != nil {
		c.log.Warn("gossip did not stop well", "error", err)
	}
}

// health is memberlist's own measure of how late it is.
func (c *Cluster) health() int {
	if list := c.list.Load(); list != nil {
		return list.GetHealthScore()
	}
	return 0
}
