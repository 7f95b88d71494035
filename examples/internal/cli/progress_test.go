package cli

import (
	"bytes"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		quick := Progress(Logger(&log, false), "quick")
		slow := Progress(Logger(&log, false), "slow", "to", "end")
		time.Sleep(Patience - time.Millisecond)
		synctest.Wait()
		if !quick() || log.Len() > 0 {
			t.Errorf("logged too early: %s", &log)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if slow() || strings.Count(log.String(), "\n") != 1 || !strings.Contains(log.String(), "msg=slow to=end") {
			t.Errorf("logged %q", &log)
		}
	})
}
