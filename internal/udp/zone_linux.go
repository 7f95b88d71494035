package udp

import (
	"fmt"
	"net"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// zoneCache converts between the names and indices of interfaces. Each question
// to the kernel costs a dump of all interfaces. An interface may be renamed or
// recreated with another index, so entries expire after a minute.
type zoneCache struct {
	mu sync.RWMutex

	// Guarded by mu.
	names   map[uint32]string
	indices map[string]uint32
	expires time.Time
}

const zoneLifetime = time.Minute

var zones zoneCache

// nameOf returns the name of the interface with the index, or the index in
// decimal if there is none.
func (z *zoneCache) nameOf(index uint32) string {
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
	z.dropExpired(now)
	z.names[index] = name
	return name
}

// indexOf returns the index of the interface called zone, which may also be the
// index in decimal. It fails with ENODEV.
func (z *zoneCache) indexOf(zone string) (uint32, error) {
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
	z.dropExpired(now)
	z.indices[zone] = index
	return index, nil
}

// dropExpired empties a cache that has expired. The caller holds mu.
func (z *zoneCache) dropExpired(now time.Time) {
	if !now.Before(z.expires) {
		z.names, z.indices = map[uint32]string{}, map[string]uint32{}
		z.expires = now.Add(zoneLifetime)
	}
}
