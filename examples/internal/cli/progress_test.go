package cli

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// lineWriter sends what is written to it, a line at a time, to a channel.
type lineWriter chan string

func (w lineWriter) Write(b []byte) (int, error) {
	w <- string(b)
	return len(b), nil
}

func TestProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := make(lineWriter, 8)
		quick := Progress(Logger(log, false), "quick")
		slow := Progress(Logger(log, false), "slow", "to", "end")
		time.Sleep(Patience - time.Millisecond)
		synctest.Wait()
		if !quick() || len(log) > 0 {
			t.Errorf("%d lines too early", len(log))
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if slow() || len(log) != 1 {
			t.Fatalf("%d lines", len(log))
		}
		if line := <-log; !strings.Contains(line, "msg=slow to=end") {
			t.Errorf("logged %q", line)
		}
	})
}
