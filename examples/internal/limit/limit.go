// Package limit bounds how many connections there are, in all and for each
// owner, by ending those that have been idle for the longest time: whoever
// arrives is served, and whoever holds many idle connections loses them first.
package limit

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/wgstack/wireguard/examples/internal/warn"
)

// A Table counts connections. Its exported fields must not change once it is
// used. Its methods may be called concurrently.
type Table struct {
	Name        string    // what it counts, as the log names it
	Max         int       // of all owners; 0 means no limit
	MaxPerOwner int       // of each owner; 0 means no limit
	Log         *warn.Log // is told of evictions; may be nil

	mu     sync.Mutex
	owners map[string]map[*Entry]struct{} // guarded by mu; no empty ones
	count  int                            // guarded by mu

	added, evicted, sent, received atomic.Uint64 // since the start
}

// An Entry is one connection in a Table.
type Entry struct {
	table  *Table
	owner  string
	evict  func()
	opened time.Time
	target atomic.Pointer[string]
	moved  atomic.Int64 // when data last moved, in nanoseconds of Unix time

	sent, received atomic.Uint64 // bytes, as seen by the client

	// blocked is the number of writes that wait: the connection then holds what
	// its sender has sent.
	blocked atomic.Int32
}

// Add adds a connection of an owner. If there are too many, it first removes
// the one that has been idle for the longest time: of the same owner if that
// has too many, otherwise of the owner that has most. It calls the evict
// function of that one, which must end it and must not block.
func (t *Table) Add(owner string, evict func()) *Entry {
	e := &Entry{table: t, owner: owner, evict: evict, opened: time.Now()}
	e.Touch()
	t.added.Add(1)
	t.mu.Lock()
	var victim *Entry
	switch {
	case t.MaxPerOwner > 0 && len(t.owners[owner]) >= t.MaxPerOwner:
		victim = longestIdle(t.owners[owner])
	case t.Max > 0 && t.count >= t.Max:
		victim = longestIdle(t.owners[t.largestOwner()])
	}
	if victim != nil {
		t.remove(victim)
	}
	if t.owners == nil {
		t.owners = make(map[string]map[*Entry]struct{})
	}
	if t.owners[owner] == nil {
		t.owners[owner] = make(map[*Entry]struct{})
	}
	t.owners[owner][e] = struct{}{}
	t.count++
	t.mu.Unlock()
	if victim != nil {
		t.evicted.Add(1)
		t.Log.Warn(t.Name+" "+victim.owner, "too many "+t.Name+": the longest idle ended",
			"owner", victim.owner, "idle", victim.idle().Round(time.Millisecond), "limit", t.Max, "limit_per_owner", t.MaxPerOwner)
		victim.evict()
	}
	return e
}

// Evict ends up to n connections to save memory, and returns how many: first
// those whose receiver reads nothing, then others, of each kind those that have
// been idle for the longest time.
func (t *Table) Evict(n int) int {
	t.mu.Lock()
	var victims []*Entry
	for _, entries := range t.owners {
		for e := range entries {
			victims = append(victims, e)
		}
	}
	slices.SortFunc(victims, func(a, b *Entry) int {
		if c := cmp.Compare(min(1, b.blocked.Load()), min(1, a.blocked.Load())); c != 0 {
			return c
		}
		return cmp.Compare(a.moved.Load(), b.moved.Load())
	})
	victims = victims[:min(n, len(victims))]
	for _, victim := range victims {
		t.remove(victim)
	}
	t.mu.Unlock()
	t.evicted.Add(uint64(len(victims)))
	for _, victim := range victims {
		victim.evict()
	}
	return len(victims)
}

// Len returns how many connections there are.
func (t *Table) Len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.count
}

// Totals are what a Table has counted since the start.
type Totals struct {
	Open           int    // connections now
	Added, Evicted uint64 // connections
	Sent, Received uint64 // bytes, as seen by the clients
}

// Sum returns what tables have counted.
func Sum(tables ...*Table) (sum Totals) {
	for _, t := range tables {
		sum.Open += t.Len()
		sum.Added += t.added.Load()
		sum.Evicted += t.evicted.Load()
		sum.Sent += t.sent.Load()
		sum.Received += t.received.Load()
	}
	return sum
}

// A Connection is a snapshot of an Entry.
type Connection struct {
	Owner, Target  string // Target may be empty
	Opened, Moved  time.Time
	Sent, Received uint64 // bytes, as seen by the client
}

// Latest returns the n connections of tables in which data has moved most
// recently.
func Latest(n int, tables ...*Table) []Connection {
	var all []Connection
	for _, t := range tables {
		t.mu.Lock()
		for _, entries := range t.owners {
			for e := range entries {
				all = append(all, e.connection())
			}
		}
		t.mu.Unlock()
	}
	slices.SortFunc(all, func(a, b Connection) int {
		return cmp.Or(b.Moved.Compare(a.Moved), b.Opened.Compare(a.Opened), cmp.Compare(a.Owner, b.Owner))
	})
	return all[:min(n, len(all))]
}

func (e *Entry) connection() Connection {
	c := Connection{
		Owner:    e.owner,
		Opened:   e.opened,
		Moved:    time.Unix(0, e.moved.Load()),
		Sent:     e.sent.Load(),
		Received: e.received.Load(),
	}
	if target := e.target.Load(); target != nil {
		c.Target = *target
	}
	return c
}

// largestOwner returns the owner with most connections. The caller holds t.mu.
func (t *Table) largestOwner() (largest string) {
	for owner, entries := range t.owners {
		if len(entries) > len(t.owners[largest]) {
			largest = owner
		}
	}
	return largest
}

func longestIdle(entries map[*Entry]struct{}) (victim *Entry) {
	for e := range entries {
		if victim == nil || e.moved.Load() < victim.moved.Load() {
			victim = e
		}
	}
	return victim
}

// remove removes e if it is there. The caller holds t.mu.
func (t *Table) remove(e *Entry) {
	entries := t.owners[e.owner]
	if _, ok := entries[e]; !ok {
		return
	}
	delete(entries, e)
	t.count--
	if len(entries) == 0 {
		delete(t.owners, e.owner)
	}
}

// Touch records that data moves.
func (e *Entry) Touch() { e.moved.Store(time.Now().UnixNano()) }

// SetTarget says what the connection leads to.
func (e *Entry) SetTarget(target string) { e.target.Store(&target) }

// CountSent records that the client has sent n bytes.
func (e *Entry) CountSent(n int) {
	e.Touch()
	e.sent.Add(uint64(n))
	e.table.sent.Add(uint64(n))
}

// CountReceived records that n bytes are sent to the client.
func (e *Entry) CountReceived(n int) {
	e.Touch()
	e.received.Add(uint64(n))
	e.table.received.Add(uint64(n))
}

// Block adds n to the number of writes that wait.
func (e *Entry) Block(n int) { e.blocked.Add(int32(n)) }

func (e *Entry) idle() time.Duration { return time.Since(time.Unix(0, e.moved.Load())) }

// Remove removes the connection. It may be called more than once, and after the
// entry was evicted.
func (e *Entry) Remove() {
	e.table.mu.Lock()
	defer e.table.mu.Unlock()
	e.table.remove(e)
}
