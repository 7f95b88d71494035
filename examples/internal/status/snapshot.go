package status

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/wgstack/wireguard/examples/internal/limit"
)

// maxConnections is how many connections the page shows.
const maxConnections = 100

// A snapshot is the content of the page. Durations are in seconds, traffic is in
// bytes.
type snapshot struct {
	Now         time.Time    `json:"now"`
	Name        string       `json:"name"`
	Version     string       `json:"version"`
	PublicKey   string       `json:"publicKey"`
	ListenPort  uint16       `json:"listenPort"`
	Ready       bool         `json:"ready"`
	Peers       []peer       `json:"peers"`
	Drops       []drops      `json:"drops"` // the most frequent reason first
	Choices     []choice     `json:"choices"`
	Pongs       []pong       `json:"pongs"`
	Rates       []rate       `json:"rates"` // the oldest first
	Open        int          `json:"open"`  // connections, of which not all may be listed
	Connections []connection `json:"connections"`
	Events      []event      `json:"events"` // the latest first
}

type peer struct {
	PublicKey    string         `json:"publicKey"`
	Endpoint     string         `json:"endpoint"` // empty: not known
	AllowedIPs   []netip.Prefix `json:"allowedIPs"`
	Keepalive    float64        `json:"keepalive"`    // 0: off
	HandshakeAge *float64       `json:"handshakeAge"` // null: never
	Sent         uint64         `json:"sent"`
	Received     uint64         `json:"received"`
	Dropped      uint64         `json:"dropped"`   // packets
	RoundTrip    float64        `json:"roundTrip"` // of the latest handshake, in seconds; 0: unknown
	PathMTU      int            `json:"pathMTU"`
}

// A drops is a reason why packets and messages were dropped, and how many.
type drops struct {
	Reason string `json:"reason"`
	Count  uint64 `json:"count"`
}

// A choice is a member of a failover group.
type choice struct {
	Group string   `json:"group"`
	Name  string   `json:"name"`
	InUse bool     `json:"inUse"`
	Well  bool     `json:"well"`
	Age   *float64 `json:"age"`   // of the state
	Cause string   `json:"cause"` // why it is not well
}

// A pong is about an address that is pinged.
type pong struct {
	Address netip.Addr `json:"address"`
	Age     *float64   `json:"age"` // of the latest answer; null: none
}

type connection struct {
	Client   string  `json:"client"`
	Target   string  `json:"target"`
	Age      float64 `json:"age"`
	Idle     float64 `json:"idle"`
	Sent     uint64  `json:"sent"`
	Received uint64  `json:"received"`
}

func (s *Server) snapshot(now time.Time) snapshot {
	stats := s.Stats()
	pongs, ready := s.alive().check(now)
	shown := snapshot{
		Now:         now,
		Name:        s.Name,
		Version:     s.Version,
		PublicKey:   stats.PublicKey.String(),
		ListenPort:  stats.ListenPort,
		Ready:       ready,
		Peers:       []peer{},
		Drops:       []drops{},
		Choices:     []choice{},
		Pongs:       []pong{},
		Rates:       s.samples.rates(now),
		Open:        limit.Sum(s.Clients...).Open,
		Connections: []connection{},
		Events:      s.Events.latest(),
	}
	for _, p := range stats.Peers {
		from := ""
		if p.Endpoint.IsValid() {
			from = p.Endpoint.String()
		}
		shown.Peers = append(shown.Peers, peer{
			PublicKey:    p.PublicKey.String(),
			Endpoint:     from,
			AllowedIPs:   p.AllowedIPs,
			Keepalive:    p.PersistentKeepalive.Seconds(),
			HandshakeAge: age(now, p.LastHandshake),
			Sent:         p.TxBytes,
			Received:     p.RxBytes,
			Dropped:      p.Dropped,
			RoundTrip:    p.RoundTrip.Seconds(),
			PathMTU:      p.PathMTU,
		})
	}
	for reason, n := range stats.Drops {
		shown.Drops = append(shown.Drops, drops{reason.String(), n})
	}
	slices.SortFunc(shown.Drops, func(a, b drops) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Reason, b.Reason))
	})
	for _, group := range s.failovers() {
		for _, m := range group.Members {
			shown.Choices = append(shown.Choices, choice{group.Name, m.Name, m.Active, m.Well, age(now, m.Since), m.Cause})
		}
	}
	for addr, at := range pongs {
		shown.Pongs = append(shown.Pongs, pong{addr, age(now, at)})
	}
	slices.SortFunc(shown.Pongs, func(a, b pong) int { return a.Address.Compare(b.Address) })
	for _, c := range limit.Latest(maxConnections, s.Clients...) {
		shown.Connections = append(shown.Connections, connection{
			Client:   c.Owner,
			Target:   c.Target,
			Age:      *age(now, c.Opened),
			Idle:     *age(now, c.Moved),
			Sent:     c.Sent,
			Received: c.Received,
		})
	}
	return shown
}

// age returns the time since t in seconds, nil for the zero time.
func age(now, t time.Time) *float64 {
	if t.IsZero() {
		return nil
	}
	seconds := max(0, now.Sub(t).Seconds())
	return &seconds
}
