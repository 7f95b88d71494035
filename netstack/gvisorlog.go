package netstack

import (
	"time"

	"gvisor.dev/gvisor/pkg/log"
)

// The log of gVisor, which has one target for the whole process: by default
// os.Stderr.

// discardEmitter drops what gVisor logs.
type discardEmitter struct{}

func (discardEmitter) Emit(int, log.Level, time.Time, string, ...any) {}

// init replaces the emitter of gVisor's logger in place. log.SetTarget would
// make another logger, and packages of gVisor keep the first one in variables.
func init() { log.Log().Emitter = discardEmitter{} }
