package wireguard

import (
	"io"
	"log/slog"
	"sync"

	"github.com/wgstack/wireguard/internal/keytext"
)

// The key log, in the format that the WireGuard dissector of Wireshark reads: a
// line for each key, "TYPE = base64". The dissector derives the session keys from
// the handshake, so it needs the ephemeral key and, to verify who took part, the
// static one. It links a preshared key to the ephemeral key in the line before.
const (
	keyLogStatic    = "LOCAL_STATIC_PRIVATE_KEY"
	keyLogRemote    = "REMOTE_STATIC_PUBLIC_KEY"
	keyLogEphemeral = "LOCAL_EPHEMERAL_PRIVATE_KEY"
	keyLogPreshared = "PRESHARED_KEY"
)

// keyLog passes the secrets of handshakes to Config.KeyLog. Its lock is taken
// after all others and held while the writer is called.
type keyLog struct {
	w   io.Writer // nil: none
	log *slog.Logger

	mu     sync.Mutex
	failed bool // an error was logged
}

// warnStarted warns that the secrets of the device leave it.
func (l *keyLog) warnStarted() {
	if l.w != nil {
		l.log.Warn("key log is on: who reads it can decrypt the traffic and impersonate this device")
	}
}

// writeLines writes the lines of one handshake. An error is logged once, since
// the next handshake would have the same.
func (l *keyLog) writeLines(lines []byte) {
	if l.w == nil {
		return
	}
	l.mu.Lock()
	_, err := l.w.Write(lines)
	first := err != nil && !l.failed
	l.failed = l.failed || err != nil
	l.mu.Unlock()
	if first {
		l.log.Warn("key log cannot be written", "err", err)
	}
}

// revealsSecrets reports whether anything receives the secrets of handshakes.
func (d *Device) revealsSecrets() bool { return d.keyLog.w != nil || d.capture.Load() != nil }

// revealIdentity passes the static key to what receives secrets. It is called
// before the first initiation to the device can be accepted: with the static key
// alone an initiation is decrypted, so a reader that follows packets and keys as
// they come would otherwise not understand the first one.
func (d *Device) revealIdentity(private PrivateKey) {
	if private.IsZero() || !d.revealsSecrets() {
		return
	}
	private.clamp()
	d.revealLines(appendKeyLine(nil, keyLogStatic, (*[32]byte)(&private)))
	clear(private[:])
}

// revealHandshake passes the secrets of a handshake to what receives them. It is
// called before the message with the ephemeral key can be sent, without a lock, as
// the writer of Config.KeyLog may block. A preshared key that changes between an
// initiation and its response is not revealed.
func (d *Device) revealHandshake(id *identity, remote PublicKey, ephemeral *PrivateKey, psk *PresharedKey) {
	lines := make([]byte, 0, keyLogSize)
	lines = appendKeyLine(lines, keyLogStatic, (*[32]byte)(id.key.Bytes()))
	lines = appendKeyLine(lines, keyLogRemote, (*[32]byte)(&remote))
	lines = appendKeyLine(lines, keyLogEphemeral, (*[32]byte)(ephemeral))
	lines = appendKeyLine(lines, keyLogPreshared, (*[32]byte)(psk))
	d.revealLines(lines)
}

// revealLines passes lines on, and clears them.
func (d *Device) revealLines(lines []byte) {
	d.program.begin()
	defer d.program.end()
	d.keyLog.writeLines(lines)
	if c := d.capture.Load(); c != nil {
		(*c).HandshakeSecrets(lines)
	}
	clear(lines)
}

// keyLogSize is the size of the lines of one handshake.
const keyLogSize = len(keyLogStatic+keyLogRemote+keyLogEphemeral+keyLogPreshared) +
	4*(len(" = \n")+keytext.Base64Len)

func appendKeyLine(b []byte, name string, key *[32]byte) []byte {
	text := keytext.EncodeBase64(key)
	b = append(append(b, name...), " = "...)
	return append(append(b, text[:]...), '\n')
}
