package failover

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/wgstack/wireguard"
)

// endpoints chooses between the endpoints of a peer. When the peer does not
// answer, it tries the others in turn. While the one in use is not the first, it
// tries those before it: an initiation is sent there, and if the answer comes
// from there the device stays with it, as with every peer that roams.
type endpoints struct {
	*Controller
	Group
	table    *table
	ranking  *ranking
	received uint64
	checks   int // since the latest trial
	trials   int
}

const (
	// trialHold is how long the peer has an endpoint that is only tried. Until
	// then the initiation must have been sent, or the trial fails. What else is
	// sent in this time is lost if nobody is there.
	trialHold = 20 * time.Millisecond

	// minHandshakeAge is how old the latest handshake must be for another.
	minHandshakeAge = 5 * time.Second

	// trialEvery is how often a trial looks whether it has succeeded.
	trialEvery = 50 * time.Millisecond
)

func (e *endpoints) key() wireguard.PublicKey { return e.Peers[0] }

func (e *endpoints) check(ctx context.Context) {
	e.checks++
	active := e.ranking.active
	if active > 0 && e.checks >= idleChecks {
		if stats, ok := statsOf(e.device, e.key()); ok && time.Since(stats.LastHandshake) < minHandshakeAge {
			return // a check would be one more handshake
		}
		e.checks = 0
		e.trials++
		if i := e.trials % active; e.try(ctx, i) == nil {
			e.note(e.ranking, e.ranking.members[i], nil)
			e.use(e.ranking, i)
			return
		}
	}
	err := e.checkPeer(ctx, e.key(), &e.received)
	if ctx.Err() != nil {
		return
	}
	e.note(e.ranking, e.ranking.members[active], err)
	if err != nil {
		e.tryOthers(ctx)
	}
}

// tryOthers moves the peer to the first other endpoint that answers, and
// otherwise leaves it where it is.
func (e *endpoints) tryOthers(ctx context.Context) {
	active := e.ranking.active
	for i, endpoint := range e.Endpoints {
		if i == active {
			continue
		}
		err := e.table.setEndpoint(e.key(), endpoint)
		if err == nil {
			once, cancel := context.WithTimeout(ctx, checkTimeout)
			err = e.device.Handshake(once, e.key())
			cancel()
		}
		if ctx.Err() != nil {
			return
		}
		e.note(e.ranking, e.ranking.members[i], err)
		if err == nil {
			e.use(e.ranking, i)
			return
		}
	}
	e.table.setEndpoint(e.key(), e.Endpoints[active])
}

var errElsewhere = errors.New("no answer from there")

// try sends an initiation to an endpoint while another is in use. It returns nil
// if the peer is there now.
func (e *endpoints) try(ctx context.Context, i int) error {
	there, err := e.resolve(ctx, e.Endpoints[i])
	if err != nil {
		return err
	}
	before, ok := statsOf(e.device, e.key())
	if !ok || !before.Endpoint.IsValid() {
		return wireguard.ErrNoPeer
	}
	if err := e.table.setEndpoint(e.key(), there.String()); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, checkTimeout/2)
	defer cancel()
	hold, stop := context.WithTimeout(ctx, trialHold)
	e.device.Handshake(hold, e.key())
	stop()
	ticker := time.NewTicker(trialEvery)
	defer ticker.Stop()
	for back := false; ; {
		now, ok := statsOf(e.device, e.key())
		switch {
		case !ok:
			return wireguard.ErrNoPeer
		case now.LastHandshake.After(before.LastHandshake) && now.Endpoint == there:
			return nil
		case !back:
			back = true
			if err := e.table.setEndpoint(e.key(), before.Endpoint.String()); err != nil {
				return err
			}
			continue
		case now.LastHandshake.After(before.LastHandshake):
			return errElsewhere
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return errElsewhere
		}
	}
}

// resolve returns the address of an endpoint.
func (e *endpoints) resolve(ctx context.Context, endpoint string) (netip.AddrPort, error) {
	if addr, err := netip.ParseAddrPort(endpoint); err == nil {
		return addr, nil
	}
	host, port, err := net.SplitHostPort(endpoint)
	if err != nil {
		return netip.AddrPort{}, err
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return netip.AddrPort{}, err
	}
	addrs, err := e.lookup(ctx, "ip", host)
	if err != nil {
		return netip.AddrPort{}, err
	}
	if len(addrs) == 0 {
		return netip.AddrPort{}, fmt.Errorf("%s has no address", host)
	}
	return netip.AddrPortFrom(addrs[0].Unmap(), uint16(number)), nil
}
