package wireguard

import (
	"context"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

// blockedFunctions has configurations each of which makes one function of the
// program wait for release.
var blockedFunctions = map[string]func(cfg *Config, release <-chan struct{}){
	"Trace": func(cfg *Config, release <-chan struct{}) {
		cfg.Trace = &Trace{HandshakeStarted: func(HandshakeInfo) { <-release }}
	},
	"KeyLog": func(cfg *Config, release <-chan struct{}) {
		cfg.KeyLog = &blockedWriter{release: release}
	},
	"Capture": func(cfg *Config, release <-chan struct{}) { cfg.Capture = blockedCapture{release} },
	"PeerFor": func(cfg *Config, release <-chan struct{}) {
		cfg.PeerFor = func(context.Context, PublicKey) (PeerConfig, error) {
			<-release
			return PeerConfig{}, errNotListed
		}
	},
}

// blockedWriter is a key log that waits, except in New.
type blockedWriter struct {
	release <-chan struct{}
	started bool
}

func (w *blockedWriter) Write(b []byte) (int, error) {
	if w.started {
		<-w.release
	}
	w.started = true
	return len(b), nil
}

// blockedCapture is a Capture whose OuterPacket waits.
type blockedCapture struct{ release <-chan struct{} }

func (c blockedCapture) OuterPacket(bool, netip.AddrPort, netip.AddrPort, uint8, []byte) { <-c.release }
func (blockedCapture) InnerPacket(bool, []byte)                                          {}
func (blockedCapture) HandshakeSecrets([]byte)                                           {}

// withBlockedFunction runs a transcript in which a function of the program waits
// for release.
func withBlockedFunction(t *testing.T, block func(*Config, <-chan struct{}), transcript func(b *testbed, release chan struct{})) {
	var release chan struct{}
	withTestbed(t, func(cfg *Config) {
		release = make(chan struct{}) // in the bubble
		block(cfg, release)
	}, func(b *testbed) {
		b.newStranger("192.0.2.3:1", "10.0.0.3").sendInitiation()
		b.outputTo(b.far, "hello")
		synctest.Wait()
		transcript(b, release)
	})
}

func TestCloseDoesNotWaitForBlockedFunctions(t *testing.T) {
	for name, block := range blockedFunctions {
		t.Run(name, func(t *testing.T) {
			withBlockedFunction(t, block, func(b *testbed, release chan struct{}) {
				start := time.Now()
				b.dev.Close()
				if d := time.Since(start); d != programGrace {
					t.Errorf("Close took %v", d)
				}
				close(release)
				synctest.Wait() // the rest of the goroutines ends
			})
			withBlockedFunction(t, block, func(b *testbed, release chan struct{}) {
				time.AfterFunc(programGrace-shortTime, func() { close(release) })
				start := time.Now()
				b.dev.Close()
				if d := time.Since(start); d != programGrace-shortTime {
					t.Errorf("Close took %v though the function returned", d)
				}
			})
		})
	}
}

// TestCloseWaitsWhileFunctionsReturn has many functions of a Trace take a while
// each.
func TestCloseWaitsWhileFunctionsReturn(t *testing.T) {
	told := 0
	withTestbed(t, func(cfg *Config) {
		cfg.Trace = &Trace{NetworkChanged: func(NetworkInfo) {
			time.Sleep(programGrace / 2)
			told++
		}}
	}, func(b *testbed) {
		for range 5 {
			b.dev.tellNetwork(false)
		}
		b.dev.Close()
		if told != 5 {
			t.Errorf("%d functions were called", told)
		}
	})
}

func TestNothingIsToldAfterClose(t *testing.T) {
	told := 0
	withTestbed(t, func(cfg *Config) {
		cfg.Trace = &Trace{NetworkChanged: func(NetworkInfo) {
			told++
			time.Sleep(2 * programGrace)
		}}
	}, func(b *testbed) {
		for range 5 {
			b.dev.tellNetwork(false)
		}
		synctest.Wait()
		b.dev.Close()
		time.Sleep(quietPeriod)
		if told != 1 {
			t.Errorf("%d functions were called", told)
		}
	})
}

func TestTraceMayCallClose(t *testing.T) {
	var dev *Device
	withTestbed(t, func(cfg *Config) {
		cfg.Trace = &Trace{NetworkChanged: func(NetworkInfo) { dev.Close() }}
	}, func(b *testbed) {
		dev = b.dev
		b.dev.tellNetwork(false)
		synctest.Wait()
		time.Sleep(programGrace)
		synctest.Wait()
		if !b.dev.isClosed() {
			t.Error("the device is not closed")
		}
	})
}
