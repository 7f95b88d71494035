package wireguard

import (
	"encoding/base64"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wgstack/wireguard/internal/fakepeer"
)

// keyWriter is a key log that a test reads. It fails the test if Write is called
// concurrently.
type keyWriter struct {
	t       *testing.T
	writing sync.Mutex
	onWrite func() // called during Write; may be nil
	err     error

	mu    sync.Mutex
	lines []string
}

func (w *keyWriter) Write(b []byte) (int, error) {
	if !w.writing.TryLock() {
		w.t.Error("concurrent writes")
		return 0, nil
	}
	defer w.writing.Unlock()
	if w.onWrite != nil {
		w.onWrite()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lines = append(w.lines, strings.SplitAfter(strings.TrimSuffix(string(b), "\n"), "\n")...)
	for i := range w.lines {
		w.lines[i] = strings.TrimSuffix(w.lines[i], "\n")
	}
	return len(b), w.err
}

// takeLines returns the lines written since the last call.
func (w *keyWriter) takeLines() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	lines := w.lines
	w.lines = nil
	return lines
}

// wantHandshake expects the lines of one handshake, whose message carried the
// public ephemeral key.
func (w *keyWriter) wantHandshake(what string, static PrivateKey, remote PublicKey, ephemeral [32]byte, psk PresharedKey) {
	w.t.Helper()
	lines := w.takeLines()
	if len(lines) != 4 {
		w.t.Fatalf("%s: %d lines in the key log", what, len(lines))
	}
	encode := func(k [32]byte) string { return base64.StdEncoding.EncodeToString(k[:]) }
	text, _ := strings.CutPrefix(lines[2], "LOCAL_EPHEMERAL_PRIVATE_KEY = ")
	if private, err := ParsePrivateKey(text); err != nil || private.PublicKey() != ephemeral {
		w.t.Errorf("%s: the line of the ephemeral key is not that of the message", what)
	}
	for i, want := range map[int]string{
		0: "LOCAL_STATIC_PRIVATE_KEY = " + encode(static),
		1: "REMOTE_STATIC_PUBLIC_KEY = " + encode(remote),
		3: "PRESHARED_KEY = " + encode(psk),
	} {
		if lines[i] != want {
			w.t.Errorf("%s: line %d of the key log is wrong", what, i+1)
		}
	}
}

// withKeyLog runs a transcript in a testbed with a key log and a preshared key.
func withKeyLog(t *testing.T, w *keyWriter, logger *slog.Logger, transcript func(b *testbed, private PrivateKey, psk PresharedKey)) {
	t.Helper()
	w.t = t
	psk := NewPresharedKey()
	var private PrivateKey
	edit := func(cfg *Config) {
		private = cfg.PrivateKey
		cfg.KeyLog, cfg.Logger = w, logger
		cfg.Peers[0].PresharedKey = psk
	}
	withTestbed(t, edit, func(b *testbed) {
		b.far.PSK = psk
		transcript(b, private, psk)
	})
}

func sendInitiation(r *remote) {
	msg, _ := r.Initiation(fakepeer.InitiationOptions{})
	r.writeMessage(msg)
}

func TestKeyLogHasEveryHandshakeBeforeItsMessage(t *testing.T) {
	w := new(keyWriter)
	withKeyLog(t, w, nil, func(b *testbed, private PrivateKey, psk PresharedKey) {
		if lines := w.takeLines(); len(lines) != 1 || lines[0] != "LOCAL_STATIC_PRIVATE_KEY = "+base64.StdEncoding.EncodeToString(private[:]) {
			t.Errorf("%d lines at the start", len(lines))
		}
		remote := b.far.peer().public

		// Initiator. The device has sent nothing while the writer is called.
		hold := make(chan struct{})
		w.onWrite = func() { <-hold }
		b.outputTo(b.far, "x")
		b.far.wantSilence("while the key log is written", time.Second)
		close(hold)
		msg := b.far.wantMessage("initiation", fakepeer.Initiation)
		w.wantHandshake("as initiator", private, remote, [32]byte(msg[8:40]), psk)

		// Responder.
		hold = make(chan struct{})
		sendInitiation(b.far)
		b.far.wantSilence("while the key log is written", time.Second)
		close(hold)
		msg = b.far.wantMessage("response", fakepeer.Response)
		w.wantHandshake("as responder", private, remote, [32]byte(msg[12:44]), psk)

		// Another identity.
		private = NewPrivateKey()
		b.setPrivateKey(private, b.far)
		synctest.Wait()
		if lines := w.takeLines(); len(lines) == 0 || lines[0] != "LOCAL_STATIC_PRIVATE_KEY = "+base64.StdEncoding.EncodeToString(private[:]) {
			t.Error("the key log does not have the new private key")
		}
	})
}

// A key log that blocks delays handshakes, and not the packets of a session.
func TestKeyLogDoesNotDelayPackets(t *testing.T) {
	w := new(keyWriter)
	withKeyLog(t, w, nil, func(b *testbed, _ PrivateKey, _ PresharedKey) {
		s := b.far.connectFromDevice()
		hold := make(chan struct{})
		w.onWrite = func() { <-hold }
		defer close(hold)
		sendInitiation(b.far)
		b.far.wantSilence("while the key log is written", time.Second)
		b.outputTo(b.far, "out")
		b.far.wantData("out", s, "out")
	})
}

func TestKeyLogFailureIsLoggedOnce(t *testing.T) {
	w := &keyWriter{err: errors.New("disk is full")}
	var text syncBuffer
	withKeyLog(t, w, slog.New(slog.NewTextHandler(&text, nil)), func(b *testbed, _ PrivateKey, _ PresharedKey) {
		b.far.connectFromDevice()
		synctest.Wait()
		if n := strings.Count(text.String(), "disk is full"); n != 1 {
			t.Errorf("the failure is logged %d times", n)
		}
		if n := strings.Count(text.String(), "key log is on"); n != 1 {
			t.Errorf("the warning is logged %d times", n)
		}
	})
}
