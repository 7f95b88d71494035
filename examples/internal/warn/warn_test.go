package warn

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func TestWarnOnceAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		l := New(slog.New(slog.NewTextHandler(&out, nil)))
		lines := func() int {
			n := strings.Count(out.String(), "\n")
			return n
		}
		for range 5 {
			l.Warn("a", "first")
			l.Warn("b", "second")
		}
		if lines() != 2 {
			t.Errorf("logged %d lines, want 2:\n%s", lines(), &out)
		}
		time.Sleep(time.Minute)
		l.Warn("a", "again")
		if got := out.String(); lines() != 3 || !strings.HasSuffix(got, "msg=again suppressed=8\n") {
			t.Errorf("logged:\n%s", got)
		}
		for i := range 1000 {
			l.Warn(fmt.Sprint(i), "many")
		}
		if lines() != 2+maxLines {
			t.Errorf("logged %d lines, want %d", lines(), 2+maxLines)
		}
	})
}

func TestNilLog(t *testing.T) { (*Log)(nil).Warn("a", "dropped") }

// TestDialOnceForEachTargetAndCause checks that a port that differs each time
// makes no new cause.
func TestDialOnceForEachTargetAndCause(t *testing.T) {
	var out bytes.Buffer
	l := New(slog.New(slog.NewTextHandler(&out, nil)))
	refused := func(port int) error {
		return &net.OpError{Op: "dial", Net: "tcp", Source: &net.TCPAddr{Port: port}, Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	}
	l.Dial("a:80", refused(1))
	l.Dial("a:80", refused(2))
	l.Dial("b:80", refused(3))
	l.Dial("a:80", errors.Join(os.ErrDeadlineExceeded))
	if n := strings.Count(out.String(), "level=WARN msg=\"dial failed\""); n != 3 {
		t.Errorf("logged %d lines, want 3:\n%s", n, &out)
	}
}
