//go:build !linux

package bench

import "time"

// An alarm calls f once some time after it was set, or more often.
type alarm struct{ timer *time.Timer }

func newAlarm(f func()) *alarm { return &alarm{time.AfterFunc(time.Hour, f)} }

func (a *alarm) set(d time.Duration) { a.timer.Reset(d) }

func (a *alarm) close() { a.timer.Stop() }
