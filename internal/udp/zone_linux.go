package udp

import (
	"fmt"
	"net"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// zoneCache converts between the names and indices of interfaces, which the kernel tells only at the price of a dump. An
// interface may be renamed, or come back under another index, so what it knows is good for a minute.
type zoneCache struct {
	mu      sync.RWMutex
	names   map[uint32]string // guarded by mu, as all below
	indices map[string]uint32
	expires time.Time
}

const zoneCacheFor = time.Minute

var zones zoneCache

// name returns the name of the interface, or its number where that is unknown.
func (z *zoneCache) name(index uint32) string {
	now := time.Now()
	z.mu.RLock()
	name, ok := z.names[index]
	ok = ok && now.Before(z.expires)
	z.mu.RUnlock()
	if ok {
		return name
	}
	name = strconv.FormatUint(uint64(index), 10)
	if i, err := net.InterfaceByIndex(int(index)); err == nil {
		name = i.Name
	}
	z.mu.Lock()
	defer z.mu.Unlock()
	z.expire(now)
	z.names[index] = name
	return name
}

// index returns the number of the interface called zone, which may also be that number in decimal.
func (z *zoneCache) index(zone string) (uint32, error) {
	now := time.Now()
	z.mu.RLock()
	index, ok := z.indices[zone]
	ok = ok && now.Before(z.expires)
	z.mu.RUnlock()
	if ok {
		return index, nil
	}
	if i, err := net.InterfaceByName(zone); err == nil {
		index = uint32(i.Index)
	} else if n, err := strconv.ParseUint(zone, 10, 32); err == nil {
		index = uint32(n)
	} else {
		return 0, fmt.Errorf("interface %q: %w", zone, syscall.ENODEV)
	}
	z.mu.Lock()
	defer z.mu.Unlock()
	z.expire(now)
	z.indices[zone] = index
	return index, nil
}

// expire forgets everything after a minute. The caller holds mu.
func (z *zoneCache) expire(now time.Time) {
	if !now.Before(z.expires) {
		z.names, z.indices = map[uint32]string{}, map[string]uint32{}
		z.expires = now.Add(zoneCacheFor)
	}
}
