package bench

import (
	"flag"
	"os"
	"testing"
)

// TestMain runs more parallel tests than there are processors, since most tests
// wait for timers of the protocol.
func TestMain(m *testing.M) {
	if role := os.Getenv(netchangeRole); role != "" {
		runNetchange(role)
		return
	}
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given {
		flag.Set("test.parallel", "8")
	}
	os.Exit(m.Run())
}
