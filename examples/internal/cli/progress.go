package cli

import (
	"log/slog"
	"time"
)

// Patience is how long the programs let a person wait without a line that says
// for what.
const Patience = 2 * time.Second

// Progress logs what a person waits for, as a warning, unless stop is called
// within [Patience].
func Progress(log *slog.Logger, message string, args ...any) (stop func() bool) {
	return time.AfterFunc(Patience, func() { log.Warn(message, args...) }).Stop
}
