package netstack

import (
	"net/netip"
	"slices"
	"sync"
	"time"
)

// serverMemory is how long the stack remembers what it noted about a server.
const serverMemory = time.Minute

// dnsServers is what the stack remembers about DNS servers.
type dnsServers struct {
	mu          sync.Mutex
	silentUntil serverMarks // guarded by mu: servers that did not answer
	plainUntil  serverMarks // guarded by mu: servers that answer only without EDNS(0)
}

// serverMarks say of each server until when something holds that was noted.
type serverMarks map[netip.Addr]time.Time

func (m *serverMarks) note(server netip.Addr) {
	if *m == nil {
		*m = make(serverMarks)
	}
	(*m)[server] = time.Now().Add(serverMemory)
}

// inOrder returns servers in the order in which to ask them: those that did not
// answer lately come last.
func (d *dnsServers) inOrder(servers []netip.Addr) []netip.Addr {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	var answering, silent []netip.Addr
	for _, server := range servers {
		server = server.Unmap().WithZone("")
		if now.Before(d.silentUntil[server]) {
			silent = append(silent, server)
		} else {
			answering = append(answering, server)
		}
	}
	return slices.Concat(answering, silent)
}

// noteSilence says that server did not answer.
func (d *dnsServers) noteSilence(server netip.Addr) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.silentUntil.note(server)
}

// noteAnswer says that server answered.
func (d *dnsServers) noteAnswer(server netip.Addr) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.silentUntil, server)
}

// notePlain says that server answered a query only without EDNS(0).
func (d *dnsServers) notePlain(server netip.Addr) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.plainUntil.note(server)
}

// isPlain reports whether server is asked without EDNS(0).
func (d *dnsServers) isPlain(server netip.Addr) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return time.Now().Before(d.plainUntil[server])
}
