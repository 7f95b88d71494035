package netstack

import "sync/atomic"

type recovery struct {
	off atomic.Bool
}
