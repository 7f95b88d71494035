// Package replay detects repeated and too old packet counters (RFC 6479).
package replay

// Limit is the first counter that is never accepted: REJECT_AFTER_MESSAGES of
// the WireGuard protocol.
const Limit = 1<<64 - 1<<13 - 1

const (
	wordBits = 64
	words    = 8192 / wordBits

	// Size is how far behind the greatest counter accepted one may be. The
	// bitmap has one word more: the greatest counter's word is partly ahead of it.
	Size = words*wordBits - wordBits
)

// A Window remembers which of the most recent counters have been seen. The
// zero Window has seen none. It may not be used concurrently.
type Window struct {
	greatest uint64
	seen     [words]uint64 // ring: counter c is bit c%64 of word c/64%words
}

// Check reports whether counter is new, and marks it as seen. It refuses a
// counter that was seen before, lies more than [Size] behind the greatest, or
// has reached [Limit].
func (w *Window) Check(counter uint64) bool {
	if counter >= Limit {
		return false
	}
	if counter > w.greatest {
		// Clear the words that the window moves into; a jump of more than the
		// whole ring clears each once.
		from, to := w.greatest/wordBits, counter/wordBits
		for i := range min(to-from, words) {
			w.seen[(from+1+i)%words] = 0
		}
		w.greatest = counter
	} else if w.greatest-counter > Size {
		return false
	}
	word, bit := &w.seen[counter/wordBits%words], uint64(1)<<(counter%wordBits)
	fresh := *word&bit == 0
	*word |= bit
	return fresh
}
