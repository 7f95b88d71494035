// Package replay detects repeated and too old packet counters (RFC 6479).
package replay

// Limit is the first counter that is never accepted: REJECT_AFTER_MESSAGES of
// the WireGuard protocol (whitepaper, section 6.1). Senders stop there too; it
// is defined here only.
const Limit = 1<<64 - 1<<13 - 1

const (
	wordBits = 64
	words    = 8192 / wordBits

	// Size is how far behind the greatest accepted counter a counter may be.
	// The bitmap has one word more, because the word of the greatest counter
	// is partly ahead of it.
	Size = words*wordBits - wordBits
)

// A Window records which of the most recent counters have been seen. In the
// zero Window none has. It may not be used concurrently.
type Window struct {
	greatest uint64
	seen     [words]uint64 // ring: counter c is bit c%64 of word c/64%words
}

// Check reports whether counter is acceptable, and marks it as seen. It is not
// if it was seen before, is more than [Size] less than the greatest, or has
// reached [Limit]. Call it for authenticated packets only.
func (w *Window) Check(counter uint64) bool {
	if counter >= Limit {
		return false
	}
	if counter > w.greatest {
		// Clear the words that the window moves into. A jump of more than the
		// whole ring clears each word once.
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
