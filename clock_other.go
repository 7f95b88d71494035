//go:build !linux

package wireguard

import "time"

// suspension is unknown: keys age by the monotonic clock alone, which on some
// systems stands still while they are suspended.
func suspension() (time.Duration, bool) { return 0, false }
