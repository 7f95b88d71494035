package netstack

import (
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// Connections that the application has closed and gVisor still has: they deliver
// what was written to them, and then keep their ports for a while.

const (
	// closeTimeout is how long the other end of a closed connection may take to
	// acknowledge more of its data.
	closeTimeout = 20 * time.Second

	// maxOrphans bounds closed connections, of which a peer has half at most.
	maxOrphans = 32 << 10
)

// timeWaits are how long a closed connection keeps its ports (TIME-WAIT), by how
// many quarters of the orphans there may be there are. 30 s is twice the longest
// delay of a segment that is to be expected; less costs nothing but the
// protection from those.
var timeWaits = [...]time.Duration{timeWait, timeWait, 5 * time.Second, time.Second, time.Second}

// orphans are the closed connections of a stack.
type orphans struct {
	stack *Stack // constant

	setting sync.Mutex // held while the time is set, so that the latest level wins; before mu

	mu     sync.Mutex // guards what follows, and is taken with locks of gVisor held, before memory.mu
	shares shares     // of maxOrphans
	queues peerQueues[*orphan]
	level  int // index of the time in timeWaits that is set
}

// An orphan is a closed connection.
type orphan struct {
	orphans  *orphans
	endpoint tcpip.Endpoint
	events   *waiter.Queue
	over     waiter.Entry
	reserved int                  // constant: of its peer's share of TCP buffers
	entry    *queueEntry[*orphan] // guarded by orphans.mu
}

// adopt notes that c is about to be closed. If its peer has too many orphans, the
// oldest is reset.
func (o *orphans) adopt(c *tcpConn) {
	timeout := tcpip.TCPUserTimeoutOption(o.stack.closeTimeout)
	c.endpoint.SetSockOpt(&timeout)
	n := &orphan{orphans: o, endpoint: c.endpoint, events: c.waitQueue}
	c.endBuffer(&c.receiving, false)
	n.reserved = c.endBuffer(&c.sending, true)
	n.over.Init(n, waiter.EventHUp)

	o.mu.Lock()
	var excess *orphan
	if !o.shares.hasPlace(c.peer) {
		if excess, _ = o.queues.removeOldest(c.peer); excess != nil {
			o.shares.freePlace(c.peer)
			o.stack.memory.release(c.peer, excess.reserved, true)
		}
	}
	o.shares.takePlace(c.peer)
	n.entry = o.queues.append(c.peer, n)
	level := o.changedLevel()
	o.mu.Unlock()

	n.events.EventRegister(&n.over)
	if excess != nil {
		excess.endpoint.Abort()
		o.stack.refuse(c.peer, errManyOrphans)
	}
	o.setTimeWait(level)
}

// NotifyEvent is called when the connection enters TIME-WAIT, and when gVisor has
// ended it; possibly with locks of its endpoint held.
func (n *orphan) NotifyEvent(waiter.EventMask) {
	if tcp.EndpointState(n.endpoint.State()) == tcp.StateTimeWait {
		return
	}
	o := n.orphans
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.queues.remove(n.entry) {
		o.shares.freePlace(n.entry.peer)
		o.stack.memory.release(n.entry.peer, n.reserved, true)
	}
}

// changedLevel returns the level of timeWaits that is due, -1 if it is set
// already.
func (o *orphans) changedLevel() int {
	level := min(o.shares.used*4/max(o.shares.size, 1), len(timeWaits)-1)
	if level == o.level {
		return -1
	}
	o.level = level
	return level
}

// setTimeWait has connections that close from now on keep their ports for the
// time of the present level, unless level is -1.
func (o *orphans) setTimeWait(level int) {
	if level < 0 {
		return
	}
	o.setting.Lock()
	defer o.setting.Unlock()
	o.mu.Lock()
	level = o.level
	o.mu.Unlock()
	wait := tcpip.TCPTimeWaitTimeoutOption(timeWaits[level])
	o.stack.gvisor.SetTransportProtocolOption(tcp.ProtocolNumber, &wait)
}
