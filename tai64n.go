package wireguard

import (
	"bytes"
	"encoding/binary"
	"sync"
	"time"
)

const (
	tai64nSize = 12
	tai64nBase = 0x400000000000000a
	// tai64nGrain is the granularity of timestamps in nanoseconds, 16.8 ms: the
	// low 24 bits are cleared, to hide the exact time of the clock.
	tai64nGrain = 1 << 24
)

// tai64n is a TAI64N timestamp. It is big-endian, so that comparing bytes
// compares times. A receiver treats it as an opaque increasing number.
type tai64n [tai64nSize]byte

func newTAI64N(t time.Time) (s tai64n) {
	binary.BigEndian.PutUint64(s[:], uint64(tai64nBase+t.Unix()))
	binary.BigEndian.PutUint32(s[8:], uint32(t.Nanosecond())&^(tai64nGrain-1))
	return s
}

func (s tai64n) after(o tai64n) bool { return bytes.Compare(s[:], o[:]) > 0 }

// nextGrain returns the smallest stamp of whole grains after s.
func (s tai64n) nextGrain() tai64n {
	seconds := binary.BigEndian.Uint64(s[:])
	nanos := binary.BigEndian.Uint32(s[8:]) + tai64nGrain
	if nanos >= uint32(time.Second) {
		seconds, nanos = seconds+1, 0
	}
	binary.BigEndian.PutUint64(s[:], seconds)
	binary.BigEndian.PutUint32(s[8:], nanos)
	return s
}

// timestamper issues the timestamps of the initiations to one peer. They are the
// time of the wall clock, and strictly increase even if that is set back or two
// fall into one grain. One timestamper for all peers would run ahead of the clock
// by a grain for each peer; after a restart the peers would refuse the earlier
// timestamps of the clock, and the lead would reveal how busy the device is.
type timestamper struct {
	mu         sync.Mutex
	lastIssued tai64n
}

func (s *timestamper) nextTimestamp(wall time.Time) tai64n {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := newTAI64N(wall)
	if !t.after(s.lastIssued) {
		t = s.lastIssued.nextGrain()
	}
	s.lastIssued = t
	return t
}
