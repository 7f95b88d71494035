package wireguard

import (
	"fmt"
	"net/netip"
	"time"
)

// How the configuration of a running device changes. Every way to change it
// makes an update, and apply carries it out.

// update is a change to a device. A nil field changes nothing.
type update struct {
	privateKey   *PrivateKey // zero: none
	listenPort   *uint16     // 0: any
	fwmark       *uint32
	replacePeers bool // remove the present peers first
	peers        []peerUpdate
}

// peerUpdate is a change to a peer, which is added if it is absent.
type peerUpdate struct {
	public            PublicKey
	remove            bool
	ifIdle            bool    // remove it only then
	found             *lookup // add it if that is pending, and change nothing if it is present; nil: configured
	updateOnly        bool    // do not add it
	psk               *PresharedKey
	endpoint          string // canonical host:port; empty: stays
	keepalive         *time.Duration
	replaceAllowedIPs bool
	allowedIPs        []allowedIPChange // in order
}

// allowedIPChange adds a prefix to a peer's allowed IPs, or removes it.
type allowedIPChange struct {
	prefix netip.Prefix
	remove bool
}

// update is the change that makes a peer what p says.
func (p *PeerConfig) update() peerUpdate {
	u := peerUpdate{
		public:            p.PublicKey,
		psk:               &p.PresharedKey,
		endpoint:          p.Endpoint,
		keepalive:         &p.PersistentKeepalive,
		replaceAllowedIPs: true,
		allowedIPs:        make([]allowedIPChange, len(p.AllowedIPs)),
	}
	for i, prefix := range p.AllowedIPs {
		u.allowedIPs[i].prefix = prefix
	}
	return u
}

// SetPrivateKey changes the identity of the device. The zero key removes it:
// handshakes are then neither sent nor accepted. Sessions continue to receive,
// but the next packet to each peer waits for a new handshake, which may start at
// once. A peer whose public key is that of key is removed. Setting the present
// key again does nothing. The only error is one that wraps [net.ErrClosed].
func (d *Device) SetPrivateKey(key PrivateKey) error {
	defer clear(key[:])
	return d.applyUpdate(update{privateKey: &key})
}

// SetPeer adds a peer, or configures the one with the same public key as cfg
// says. A session continues: a new preshared key applies from the next handshake
// on, and an empty Endpoint keeps the present one. Prefixes of cfg move to this
// peer from the peer that had them. A cfg with the device's own public key is
// ignored. A peer that [Config.PeerFor] made becomes one that stays.
//
// An error names the field that is invalid, or wraps [net.ErrClosed]; the device
// is then unchanged.
func (d *Device) SetPeer(cfg PeerConfig) error {
	cfg, err := cfg.canonical()
	if err != nil {
		return err
	}
	return d.applyUpdate(update{peers: []peerUpdate{cfg.update()}})
}

// RemovePeer removes a peer. After it returns, nothing is sent to the peer or
// received from it. An answer of [Config.PeerFor] for the key that is under way
// has no effect. An error wraps [ErrNoPeer] if there is no such peer, or
// [net.ErrClosed].
func (d *Device) RemovePeer(public PublicKey) error {
	d.finder.discardLookup(public)
	p, err := d.requirePeer(public)
	if err != nil {
		return fmt.Errorf("wireguard: %w", err)
	}
	err = d.applyUpdate(update{peers: []peerUpdate{{public: public, remove: true}}})
	p.stop() // a concurrent removal may not have stopped it yet
	return err
}

func (d *Device) applyUpdate(u update) error {
	if err := d.apply(u); err != nil {
		return fmt.Errorf("wireguard: %w", err)
	}
	return nil
}

// apply carries out u, or nothing of it. The port and the mark come first because
// only they can fail.
func (d *Device) apply(u update) error {
	removed, err := d.applyLocked(u)
	d.warnMarkRefused()
	if len(removed) > 0 {
		defer d.background.Done()
	}
	for _, p := range removed {
		p.stop()
	}
	return err
}

// applyLocked returns the peers that were removed and that the caller must stop.
// If there are any, it has added 1 to d.background, for Close to wait for that.
func (d *Device) applyLocked(u update) (removed []*peer, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, errClosed
	}
	defer func() {
		if len(removed) > 0 {
			d.background.Add(1)
		}
	}()
	if err := d.applySockets(u); err != nil {
		return nil, err
	}
	remove := func(p *peer) {
		if p != nil {
			delete(d.peers, p.public)
			d.allowed.removeAll(p)
			d.finder.noteRemoved(p)
			removed = append(removed, p)
		}
	}
	if u.replacePeers {
		d.finder.discardLookups()
		for _, p := range d.peers {
			remove(p)
		}
	}
	if u.privateKey != nil {
		if id, changed := d.identityOf(*u.privateKey); changed {
			if id != nil {
				remove(d.peers[id.public])
			}
			d.setIdentity(id)
			d.finder.discardLookups()
		}
	}
	for i := range u.peers {
		pu := &u.peers[i]
		p := d.peers[pu.public]
		if pu.remove {
			d.finder.discardLookup(pu.public)
			if p != nil && (!pu.ifIdle || p.isIdle(d.now())) {
				remove(p)
			}
			continue
		}
		if l := pu.found; l != nil && (p != nil || !d.finder.isPending(l)) {
			continue
		}
		id := d.identity.Load()
		if p == nil && pu.updateOnly || id != nil && id.public == pu.public {
			continue
		}
		if p == nil {
			p = newPeer(d, pu.public)
			d.peers[pu.public] = p
		}
		d.setAllowedIPs(p, pu)
		p.configure(pu)
	}
	return removed, nil
}

// applySockets changes the mark and the port, or neither. d.mu is held.
func (d *Device) applySockets(u update) error {
	mark := d.fwmark
	if u.fwmark != nil {
		if err := d.binding.Load().setMark(*u.fwmark); err != nil {
			d.binding.Load().setMark(mark) // one of the sockets may have accepted it
			return err
		}
		d.fwmark = *u.fwmark
	}
	if u.listenPort == nil || *u.listenPort == d.binding.Load().port {
		return nil
	}
	err := d.rebindLocked(d.ctx, *u.listenPort)
	if err != nil {
		d.fwmark = mark
		d.binding.Load().setMark(mark)
	}
	return err
}

// identityOf returns the identity that a private key makes, nil for the zero
// key, and whether it differs from the present one.
func (d *Device) identityOf(private PrivateKey) (id *identity, changed bool) {
	old := d.identity.Load()
	if private.IsZero() {
		return nil, old != nil
	}
	private.clamp()
	if old != nil && old.private.equal(private) {
		return old, false
	}
	return newIdentity(private), true
}

// setIdentity gives the device another identity. Every peer must make a new
// handshake, but its session still receives. The former private key is cleared,
// but for the copy inside its *ecdh.PrivateKey, which handshakes under way still
// use. d.mu is held.
func (d *Device) setIdentity(id *identity) {
	if old := d.identity.Swap(id); old != nil {
		clear(old.private[:])
	}
	now := d.now()
	for _, p := range d.peers {
		p.mu.Lock()
		p.setPendingHandshake(nil)
		p.keys.retireSenders()
		clear(p.staticSecret[:])
		p.staticSecretFor = nil
		p.lastHandshakeSent = time.Time{}
		p.sendStaged(now)
		p.mu.Unlock()
	}
}

// setAllowedIPs changes the prefixes of p. d.mu is held.
func (d *Device) setAllowedIPs(p *peer, u *peerUpdate) {
	changes := u.allowedIPs
	if u.replaceAllowedIPs {
		var prefixes []netip.Prefix
		for len(changes) > 0 && !changes[0].remove {
			prefixes = append(prefixes, changes[0].prefix)
			changes = changes[1:]
		}
		d.allowed.replace(p, prefixes)
	}
	for _, c := range changes {
		if c.remove {
			d.allowed.remove(c.prefix, p)
		} else {
			d.allowed.insert(c.prefix, p)
		}
	}
}

// configure applies all of u but the allowed IPs. Device.mu is held.
func (p *peer) configure(u *peerUpdate) {
	now := p.device.now()
	p.mu.Lock()
	defer p.mu.Unlock()
	if u.psk != nil {
		p.psk = *u.psk
	}
	if u.endpoint != "" {
		if addr, host := parseEndpoint(u.endpoint); host != nil {
			p.namedEndpoint = host
		} else {
			p.namedEndpoint = nil
			p.setEndpoint(endpoint{addr: addr})
		}
	}
	p.found = u.found != nil
	if p.found {
		p.timers.sessionDerived(now) // so that the peer is removed unless it gets a session
	}
	if u.keepalive != nil && p.timers.setInterval(now, *u.keepalive) && !p.found {
		p.sendKeepalive(now)
	}
	p.scheduleTimer(now)
	p.sendStaged(now)
}
