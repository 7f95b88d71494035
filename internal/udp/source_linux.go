package udp

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// sourceCache remembers which Locals are right sources for datagrams to an
// address. A host with two uplinks must not send from the address of one by the
// other: the network there drops such packets, or translates them wrongly. So
// when the route moves to another interface, the address of the former
// interface is no longer used. An address that is not of that interface, such
// as a service address of the loopback interface, stays in use.
//
// The kernel is asked again every second, so a route that moves is noticed
// within that time, or later if there are more than 200 destinations.
type sourceCache struct {
	latest atomic.Pointer[sourceAnswer] // used last; nil: none

	mu      sync.RWMutex
	answers map[sourceKey]*sourceAnswer // guarded by mu
}

type sourceKey struct {
	to    netip.Addr
	local Local
}

// sourceAnswer is whether the local of a key is a right source. It never
// changes.
type sourceAnswer struct {
	key     sourceKey
	usable  bool
	expires time.Time
}

const (
	sourceLifetime   = time.Second
	sourcesPerSecond = 200  // how many questions the kernel is asked at most
	maxSourceAnswers = 4096 // answers remembered
)

// sourceFor returns the Local to send m from, the zero value if the kernel is
// to choose.
func (c *conn) sourceFor(m *Message) Local {
	local, to := m.Local, m.Addr.Addr()
	if local.Addr.Is4() != to.Is4() {
		return Local{}
	}
	if local.IfIndex == 0 || local.scope() != 0 {
		return local
	}
	key := sourceKey{to, local}
	now := time.Now()
	answer := c.sources.answerFor(key)
	if answer == nil || !now.Before(answer.expires) {
		answer = c.sources.addAnswer(key, c.isSource(to, local), now)
	}
	if !answer.usable {
		return Local{}
	}
	return local
}

// recheckSources implements router.
func (c *conn) recheckSources() {
	c.sources.mu.Lock()
	defer c.sources.mu.Unlock()
	c.sources.answers = nil
	c.sources.latest.Store(nil)
}

// answerFor returns the answer for key, which may have expired, or nil.
func (s *sourceCache) answerFor(key sourceKey) *sourceAnswer {
	if a := s.latest.Load(); a != nil && a.key == key {
		return a
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	a := s.answers[key]
	if a != nil {
		s.latest.Store(a)
	}
	return a
}

// addAnswer remembers an answer that the kernel gave now.
func (s *sourceCache) addAnswer(key sourceKey, usable bool, now time.Time) *sourceAnswer {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.answers == nil || len(s.answers) >= maxSourceAnswers {
		s.answers = make(map[sourceKey]*sourceAnswer)
	}
	lifetime := max(sourceLifetime, time.Duration(len(s.answers))*time.Second/sourcesPerSecond)
	a := &sourceAnswer{key, usable, now.Add(lifetime)}
	s.answers[key] = a
	s.latest.Store(a)
	return a
}

// isSource asks the kernel whether local is a right source for datagrams to an
// address. It is if the kernel does not say, as where netlink is not permitted:
// a send from an address that is no longer local fails and is repeated.
func (c *conn) isSource(to netip.Addr, local Local) bool {
	var mark, bound int
	c.raw.Control(func(fd uintptr) {
		mark, _ = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK)
		bound, _ = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX)
	})
	if bound != 0 {
		return true // it leaves by that interface whatever the routes
	}
	r, err := lookupRoute(to, local.Addr, uint32(mark))
	return err != nil || r.IfIndex == local.IfIndex || !hasAddr(local.IfIndex, local.Addr)
}

// hasAddr reports whether an interface has an address.
func hasAddr(index int, a netip.Addr) bool {
	i, err := net.InterfaceByIndex(index)
	if err != nil {
		return true // it is gone, and its addresses with it
	}
	addrs, _ := i.Addrs()
	for _, have := range addrs {
		if n, ok := have.(*net.IPNet); ok && n.IP.Equal(a.AsSlice()) {
			return true
		}
	}
	return false
}
