package bench

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/wgstack/wireguard"
)

// uapi is the part of an end that a device of wireguard-go, or of a fork,
// provides through its configuration protocol.
type uapi[D textDevice] struct {
	dev  D
	peer wireguard.PublicKey // the last peer set
}

type textDevice interface {
	IpcSet(text string) error
	IpcGet() (text string, err error)
	Up() error
}

// start configures the device, adds its peers by setPeer, and brings it up.
func (u *uapi[D]) start(cfg wireguard.Config, setPeer func(wireguard.PeerConfig) error) error {
	if err := u.SetPrivateKey(cfg.PrivateKey); err != nil {
		return err
	}
	if err := u.dev.IpcSet(fmt.Sprintf("listen_port=%d\n", cfg.ListenPort)); err != nil {
		return err
	}
	for _, p := range cfg.Peers {
		if err := setPeer(p); err != nil {
			return err
		}
	}
	return u.dev.Up()
}

func (u *uapi[D]) SetPrivateKey(key wireguard.PrivateKey) error {
	return u.dev.IpcSet(fmt.Sprintf("private_key=%s\n", hex.EncodeToString(key[:])))
}

func (u *uapi[D]) SetPeer(cfg wireguard.PeerConfig) error {
	u.peer = cfg.PublicKey
	var b strings.Builder
	fmt.Fprintf(&b, "public_key=%s\npreshared_key=%s\n", hex.EncodeToString(cfg.PublicKey[:]), hex.EncodeToString(cfg.PresharedKey[:]))
	if cfg.Endpoint != "" {
		fmt.Fprintf(&b, "endpoint=%s\n", cfg.Endpoint)
	}
	fmt.Fprintf(&b, "persistent_keepalive_interval=%d\nreplace_allowed_ips=true\n", cfg.PersistentKeepalive/time.Second)
	for _, p := range cfg.AllowedIPs {
		fmt.Fprintf(&b, "allowed_ip=%v\n", p)
	}
	return u.dev.IpcSet(b.String())
}

func (u *uapi[D]) RemovePeer(public wireguard.PublicKey) error {
	return u.dev.IpcSet(fmt.Sprintf("public_key=%s\nremove=true\n", hex.EncodeToString(public[:])))
}

// Rebind moves the end to a free port.
func (u *uapi[D]) Rebind() error { return u.dev.IpcSet("listen_port=0\n") }

// state returns the configuration of the device and its one peer.
func (u *uapi[D]) state() map[string]string {
	text, err := u.dev.IpcGet()
	if err != nil {
		panic(err)
	}
	state := make(map[string]string)
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		state[key] = value
	}
	return state
}

func (u *uapi[D]) Port() uint16 {
	port, err := strconv.ParseUint(u.state()["listen_port"], 10, 16)
	if err != nil {
		panic(err)
	}
	return uint16(port)
}

func (u *uapi[D]) Peer() wireguard.PeerStats {
	state := u.state()
	number := func(key string) int64 {
		n, _ := strconv.ParseInt(state[key], 10, 64)
		return n
	}
	s := wireguard.PeerStats{
		PublicKey: u.peer,
		TxBytes:   uint64(number("tx_bytes")),
		RxBytes:   uint64(number("rx_bytes")),
	}
	if at, ok := state["endpoint"]; ok {
		s.Endpoint = netip.MustParseAddrPort(at)
	}
	if sec, nsec := number("last_handshake_time_sec"), number("last_handshake_time_nsec"); sec != 0 || nsec != 0 {
		s.LastHandshake = time.Unix(sec, nsec)
	}
	return s
}
