package bench

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// An alarm calls f once some time after it was set, or more often. It has two
// clocks: timers of an idle Go process expire up to 1 ms late, and a busy one
// notices a timer of the kernel late.
type alarm struct {
	timer *time.Timer
	file  *os.File // a timerfd, or nil
}

func newAlarm(f func()) *alarm {
	a := &alarm{timer: time.AfterFunc(time.Hour, f)}
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	if err != nil {
		return a
	}
	a.file = os.NewFile(uintptr(fd), "timerfd")
	go func() {
		var expirations [8]byte
		for {
			if _, err := a.file.Read(expirations[:]); err != nil {
				return
			}
			f()
		}
	}()
	return a
}

func (a *alarm) set(d time.Duration) {
	a.timer.Reset(d)
	if a.file == nil {
		return
	}
	raw, err := a.file.SyscallConn()
	if err != nil {
		return
	}
	raw.Control(func(fd uintptr) {
		unix.TimerfdSettime(int(fd), 0, &unix.ItimerSpec{Value: unix.NsecToTimespec(max(1, int64(d)))}, nil)
	})
}

func (a *alarm) close() {
	a.timer.Stop()
	if a.file != nil {
		a.file.Close()
	}
}
