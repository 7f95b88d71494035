// Package memory keeps a program that holds the data of many connections within
// a limit of memory, by ending connections.
package memory

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"strings"
	"time"

	"github.com/wgstack/wireguard/examples/internal/limit"
	"github.com/wgstack/wireguard/examples/internal/warn"
)

// A Size is a number of bytes. As a flag it takes the suffixes K, M and G, for
// powers of 1024.
type Size int64

// String implements flag.Value.
func (s *Size) String() string {
	n, unit := int64(*s), 0
	for ; n != 0 && n%1024 == 0 && unit < len(units)-1; unit++ {
		n /= 1024
	}
	return strconv.FormatInt(n, 10) + strings.TrimSpace(units[unit:unit+1])
}

const units = " KMG"

// Set implements flag.Value.
func (s *Size) Set(text string) error {
	number, factor := text, int64(1)
	if i := strings.Index(units, text[max(0, len(text)-1):]); i > 0 {
		number, factor = text[:len(text)-1], int64(1)<<(10*i)
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 0 || n > (1<<62)/factor {
		return fmt.Errorf("want a number of bytes, such as 512M or 2G")
	}
	*s = Size(n * factor)
	return nil
}

const (
	// checkEvery is how often the memory in use is measured.
	checkEvery = 250 * time.Millisecond

	// evictPart is the part of all connections that is ended at a time.
	evictPart = 16
)

// Guard keeps the memory in use below most until ctx ends: it makes the garbage
// collector respect it and, where that is not enough, ends connections of the
// tables. 0 means no limit.
func Guard(ctx context.Context, most Size, warnings *warn.Log, tables ...*limit.Table) {
	if most == 0 {
		return
	}
	previous := debug.SetMemoryLimit(int64(most))
	defer debug.SetMemoryLimit(previous)
	ticker := time.NewTicker(checkEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if inUse() <= int64(most) {
			continue
		}
		runtime.GC() // part of it may be garbage
		if used := inUse(); used > int64(most) {
			n := evict(tables)
			warnings.Warn("memory", "the memory limit is reached: connections ended",
				"limit", most.String(), "in_use", used, "ended", n)
		}
	}
}

// evict ends a part of all connections, at least one.
func evict(tables []*limit.Table) (n int) {
	for _, t := range tables {
		n += t.Evict((t.Len() + evictPart - 1) / evictPart)
	}
	return n
}

// inUse returns the bytes of objects and stacks, garbage that is not yet
// collected included.
func inUse() int64 {
	samples := []metrics.Sample{
		{Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/heap/stacks:bytes"},
	}
	metrics.Read(samples)
	return int64(samples[0].Value.Uint64() + samples[1].Value.Uint64())
}
