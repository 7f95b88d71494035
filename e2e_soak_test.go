package wireguard

import (
	"bytes"
	"context"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wgstack/wireguard/internal/fakepeer"
	"github.com/wgstack/wireguard/internal/simnet"
	"github.com/wgstack/wireguard/netstack"
	"golang.org/x/crypto/chacha20poly1305"
)

// TestSoak has three devices exchange packets for an hour of virtual time. One
// is behind a NAT. Datagrams are lost, duplicated and reordered, the NAT loses
// its mappings, hosts move, and the network fails. Every packet is accounted
// for: it arrives once, unchanged, at the right device, or the reason why it
// did not is known. After each outage packets pass again within the time that
// the protocol allows.
func TestSoak(t *testing.T) {
	length := time.Hour
	switch {
	case testing.Short():
		length = 10 * time.Minute
	case raceEnabled:
		length = 20 * time.Minute
	}
	synctest.Test(t, func(t *testing.T) {
		k := newSoakTest(t)
		defer k.net.Close()
		k.runFor(length)
		for _, e := range k.devices {
			e.dev.Close()
			if n := e.dev.indices.count(); n != 0 {
				t.Errorf("device %d keeps %d indices", e.id, n)
			}
		}
	})
}

const (
	soakLatency = 20 * time.Millisecond
	soakDelay   = 150 * time.Millisecond // of reordered datagrams
	soakStep    = 160 * time.Millisecond // maximum interval between two packets

	// soakBound is the maximum time until packets pass again after an outage:
	// an initiation is due within REKEY_TIMEOUT and its jitter, or with the
	// next packet if all retries are used up.
	soakBound = rekeyTimeout + maxJitter + 6*soakStep + 10*soakLatency
)

type soakTest struct {
	*testing.T
	net     *simnet.Network
	nat     *simnet.NAT
	devices [3]*soakDevice

	mu       sync.Mutex
	rand     *rand.Rand
	lossless bool                   // nothing is lost
	blocked  [3][3]bool             // directions that fail, by sender and receiver
	sender   map[netip.Addr]int     // by current and former public address
	ciphers  map[soakKey]soakCipher // of all sessions used so far
	packets  []*soakPacket
	messages map[soakMessage]*soakPacket
}

type soakDevice struct {
	*soakTest
	id    int
	dev   *Device
	host  *simnet.Host
	inner netip.Addr
	heard [3]time.Time // time of the last packet, by sender
}

// soakKey identifies transport keys by their sender and the receiver's index.
type soakKey struct {
	from  int
	index uint32
}

type soakCipher struct {
	to   int
	send cipher.AEAD
}

// soakMessage identifies a data message.
type soakMessage struct {
	soakKey
	counter uint64
}

type soakPacket struct {
	bytes              []byte
	from, to           int
	sealed             int // times
	lost               bool
	arrived, delivered int
	refused            int // of arrived: the keys were erased or expired
}

func newSoakTest(t *testing.T) *soakTest {
	k := &soakTest{
		T: t, net: simnet.New(1, simnet.WithLink(simnet.Link{Latency: soakLatency, Jitter: soakLatency})),
		rand: rand.New(rand.NewPCG(1, 2)), sender: make(map[netip.Addr]int),
		ciphers: make(map[soakKey]soakCipher), messages: make(map[soakMessage]*soakPacket),
	}
	inside, outside := netip.MustParseAddr("172.16.0.1"), netip.MustParseAddr("198.51.100.1")
	var err error
	k.nat, err = k.net.NAT(simnet.NATConfig{Outside: outside, Inside: prefixes("172.16.0.0/24"), Open: true})
	if err != nil {
		t.Fatal(err)
	}
	outer := [3]netip.Addr{inside, netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("203.0.113.1")}
	k.sender[outside], k.sender[outer[1]], k.sender[outer[2]] = 0, 1, 2
	k.net.SetFilter(k.judgeDatagram)
	var keys [3]PrivateKey
	for i := range keys {
		keys[i] = NewPrivateKey()
	}
	psk := NewPresharedKey()
	for i := range k.devices {
		e := &soakDevice{soakTest: k, id: i, host: k.net.Host(outer[i]), inner: netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})}
		k.devices[i] = e
		cfg := Config{
			PrivateKey: keys[i], ListenPort: devPort, ListenPacket: e.listenPacket,
			Address: []netip.Prefix{netip.PrefixFrom(e.inner, 32)},
		}
		for j := range keys {
			if j == i {
				continue
			}
			p := PeerConfig{
				PublicKey: keys[j].PublicKey(), PresharedKey: psk,
				AllowedIPs: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(j)}), 32)},
			}
			if j > 0 {
				p.Endpoint = netip.AddrPortFrom(outer[j], devPort).String()
			}
			cfg.Peers = append(cfg.Peers, p)
		}
		cfg, err := cfg.canonical()
		if err != nil {
			t.Fatal(err)
		}
		e.dev = newDevice(cfg)
		if err := e.dev.start(cfg, e); err != nil {
			t.Fatal(err)
		}
	}
	return k
}

func (k *soakTest) randomInt(n int) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.rand.IntN(n)
}

// runFor sends packets and causes events for about the given time.
func (k *soakTest) runFor(length time.Duration) {
	start := time.Now()
	events := []func(){
		func() { k.nat.Rebind() },
		func() { k.moveNAT() },
		func() { k.moveHost(1) },
		func() { k.moveHost(2) },
		func() { k.changePort(0) },
		func() { k.changePort(1) },
		func() {},
	}
	outages := []time.Duration{
		2 * time.Second, 200 * time.Second, 14 * time.Second, 100 * time.Second, time.Second, 45 * time.Second, 600 * time.Second,
	}
	for round := 0; time.Since(start) < length; round++ {
		k.sendPacketsFor(time.Duration(10+k.randomInt(100)) * time.Second)
		events[k.randomInt(len(events))]()
		k.sendPacketsFor(time.Duration(10+k.randomInt(20)) * time.Second)
		k.mu.Lock()
		for i := range k.devices {
			for j := range k.devices {
				switch round % 5 {
				case 0:
					k.blocked[i][j] = true // for all
				case 1, 3:
					k.blocked[i][j] = i+j == 1+round%3 // between two
				default:
					k.blocked[i][j] = i < j // one way
				}
			}
		}
		k.mu.Unlock()
		d := outages[round%len(outages)]
		k.sendPacketsFor(d / 2)
		// At most one host moves during an outage: two that moved could not
		// find each other.
		events[k.randomInt(len(events))]()
		k.sendPacketsFor(d - d/2)
		switch {
		case d > eraseAfterTime:
			time.Sleep(2 * time.Minute) // until all retries are used up
		case d > rejectAfterTime:
			time.Sleep(20 * time.Second)
			k.wantStagedPacketsPass()
		}
		k.wantRecovery(fmt.Sprintf("round %d, outage of %v", round, d))
	}
	k.wantRecovery("in the end")
	time.Sleep(time.Minute)
	k.accountForPackets()
}

// restoreNetwork ends the outage and all loss.
func (k *soakTest) restoreNetwork() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.blocked, k.lossless = [3][3]bool{}, true
}

// wantStagedPacketsPass restores the network and expects staged packets to pass
// without another packet that triggers a handshake.
func (k *soakTest) wantStagedPacketsPass() {
	k.Helper()
	var staged [3][3]bool
	n := 0
	for i, e := range k.devices {
		for j, other := range k.devices {
			if i != j {
				p := e.dev.allowed.ownerOf(other.inner)
				p.mu.Lock()
				staged[i][j] = p.staged.packets > 0
				n += p.staged.packets
				p.mu.Unlock()
			}
		}
	}
	healed := time.Now()
	k.restoreNetwork()
	const bound = rekeyTimeout + maxJitter + 10*soakLatency
	time.Sleep(bound)
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, e := range k.devices {
		for from, at := range e.heard {
			if staged[from][e.id] && !at.After(healed) {
				k.Errorf("what waits from %d to %d does not pass within %v", from, e.id, bound)
			}
		}
	}
	if n == 0 {
		k.Error("no packet waits after a long outage")
	}
}

// wantRecovery restores the network and expects packets to pass within
// soakBound.
func (k *soakTest) wantRecovery(when string) {
	k.Helper()
	k.restoreNetwork()
	healed := time.Now()
	k.sendPacketsFor(soakBound)
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, e := range k.devices {
		for from, at := range e.heard {
			if from != e.id && !at.After(healed) {
				k.Errorf("%s: nothing from %d to %d within %v", when, from, e.id, soakBound)
			}
		}
	}
	k.lossless = false
}

// sendPacketsFor sends packets in all directions for the given time.
func (k *soakTest) sendPacketsFor(length time.Duration) {
	for end := time.Now().Add(length); time.Now().Before(end); {
		for from := range k.devices {
			for to := range k.devices {
				if from == to {
					continue
				}
				time.Sleep(time.Duration(k.randomInt(int(soakStep))))
				n := 1
				if k.randomInt(50) == 0 {
					n = 20
				}
				for range n {
					k.sendPacket(from, to)
				}
			}
		}
	}
}

// sendPacket sends a packet that holds its number and random bytes.
func (k *soakTest) sendPacket(from, to int) {
	src, dst := netip.AddrPortFrom(k.devices[from].inner, 1), netip.AddrPortFrom(k.devices[to].inner, 2)
	k.mu.Lock()
	payload := make([]byte, 8+k.rand.IntN(600))
	for i := range payload {
		payload[i] = byte(k.rand.Uint32())
	}
	binary.BigEndian.PutUint64(payload, uint64(len(k.packets)))
	p := &soakPacket{bytes: fakepeer.UDP(src, dst, payload), from: from, to: to}
	k.packets = append(k.packets, p)
	k.mu.Unlock()
	err := k.devices[from].dev.output(netstack.NewPacket(bytes.Clone(p.bytes)))
	if errors.Is(err, ErrNoEndpoint) && to == 0 {
		k.mu.Lock()
		k.packets[len(k.packets)-1] = nil // not sent: the endpoint of the device behind the NAT is not known yet
		k.packets = k.packets[:len(k.packets)-1]
		k.mu.Unlock()
	} else if err != nil {
		k.Fatal(err)
	}
}

// packetOf returns the packet whose number b holds, or nil.
func (k *soakTest) packetOf(b []byte) *soakPacket {
	const header = 20 + 8
	if len(b) < header+8 {
		return nil
	}
	if n := binary.BigEndian.Uint64(b[header:]); n < uint64(len(k.packets)) {
		return k.packets[n]
	}
	return nil
}

// judgeDatagram decides what happens to a datagram and records the packet
// inside.
func (k *soakTest) judgeDatagram(d simnet.Datagram) (v simnet.Verdict) {
	k.mu.Lock()
	defer k.mu.Unlock()
	from, ok := k.sender[d.From.Addr()]
	if !ok {
		k.Errorf("a datagram from %v", d.From)
		return v
	}
	if to, ok := k.sender[d.To.Addr()]; ok && k.blocked[from][to] || !k.lossless && k.rand.IntN(100) < 4 {
		v.Drop = true
	} else if !k.lossless {
		if k.rand.IntN(100) < 5 {
			v.Copies = 1 + k.rand.IntN(3)
		}
		if k.rand.IntN(100) < 5 {
			v.Delay = time.Duration(k.rand.IntN(int(soakDelay)))
		}
	}
	if fakepeer.KindOf(d.Payload) != fakepeer.Data || fakepeer.IsKeepalive(d.Payload) {
		return v
	}
	pair, ok := k.cipherOf(soakKey{from, fakepeer.Receiver(d.Payload)})
	var nonce [chacha20poly1305.NonceSize]byte
	binary.LittleEndian.PutUint64(nonce[4:], fakepeer.Counter(d.Payload))
	if !ok {
		k.Error("data under unknown keys")
		return v
	}
	plain, err := pair.send.Open(nil, nonce[:], d.Payload[dataHeaderSize:], nil)
	p := k.packetOf(plain)
	m := soakMessage{soakKey{from, fakepeer.Receiver(d.Payload)}, fakepeer.Counter(d.Payload)}
	if err != nil || p == nil || p.from != from || p.to != pair.to || k.messages[m] != nil {
		k.Errorf("data from %d under counter %d: error %v, packet %v, counter used before: %t", from, m.counter, err, p, k.messages[m] != nil)
		return v
	}
	k.messages[m] = p
	p.sealed++
	p.lost = v.Drop
	return v
}

// cipherOf returns the transport keys identified by key, which are in use now.
func (k *soakTest) cipherOf(key soakKey) (soakCipher, bool) {
	if pair, ok := k.ciphers[key]; ok {
		return pair, true
	}
	for _, e := range k.devices {
		p := k.devices[key.from].dev.allowed.ownerOf(e.inner)
		if p == nil {
			continue
		}
		p.mu.Lock()
		for _, pair := range []*keypair{p.keys.previous, p.keys.current} {
			if pair != nil {
				k.ciphers[soakKey{key.from, pair.remoteIndex}] = soakCipher{e.id, pair.send}
			}
		}
		p.mu.Unlock()
	}
	pair, ok := k.ciphers[key]
	return pair, ok
}

// soakConn records arriving data messages.
type soakConn struct {
	net.PacketConn
	end *soakDevice
}

func (e *soakDevice) listenPacket(ctx context.Context, network, address string) (net.PacketConn, error) {
	pc, err := e.host.ListenPacket(ctx, network, address)
	return &soakConn{pc, e}, err
}

func (c *soakConn) ReadFrom(b []byte) (int, net.Addr, error) {
	n, from, err := c.PacketConn.ReadFrom(b)
	if err == nil && fakepeer.KindOf(b[:n]) == fakepeer.Data {
		c.end.noteArrival(b[:n])
	}
	return n, from, err
}

func (e *soakDevice) noteArrival(msg []byte) {
	entry, ok := e.dev.indices.entryOf(fakepeer.Receiver(msg))
	refused := !ok || entry.pair == nil || entry.pair.expired(e.dev.now())
	e.mu.Lock()
	defer e.mu.Unlock()
	for from := range e.devices {
		if p := e.messages[soakMessage{soakKey{from, fakepeer.Receiver(msg)}, fakepeer.Counter(msg)}]; p != nil && p.to == e.id {
			p.arrived++
			if refused {
				p.refused++
			}
		}
	}
}

// Deliver stands in for the stack.
func (e *soakDevice) Deliver(packets [][]byte) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, b := range packets {
		p := e.packetOf(b)
		if p == nil || p.to != e.id || !bytes.Equal(b, p.bytes) {
			e.Errorf("device %d was delivered %x", e.id, b)
			continue
		}
		if p.delivered++; p.delivered > 1 {
			e.Errorf("a packet from %d to %d was delivered %d times", p.from, p.to, p.delivered)
		}
		e.heard[p.from] = time.Now()
	}
}

func (e *soakDevice) TooBig([]byte, int) { e.Error("a packet was too big") }

func (e *soakDevice) Retransmit(func(netip.Addr) bool) {}

func (e *soakDevice) Close() error { return nil }

func (k *soakTest) moveNAT() {
	a := netip.AddrFrom4([4]byte{198, 51, 100, byte(2 + len(k.sender))})
	k.mu.Lock()
	k.sender[a] = 0
	k.mu.Unlock()
	if err := k.nat.SetOutside(a); err != nil {
		k.Fatal(err)
	}
}

func (k *soakTest) moveHost(i int) {
	a := netip.AddrFrom4([4]byte{192, 0, 2, byte(2 + len(k.sender))})
	k.mu.Lock()
	k.sender[a] = i
	k.mu.Unlock()
	if err := k.devices[i].host.SetAddrs(a); err != nil {
		k.Fatal(err)
	}
}

func (k *soakTest) changePort(i int) {
	port := k.devices[i].dev.Stats().ListenPort + 1
	if err := k.devices[i].dev.apply(update{listenPort: &port}); err != nil {
		k.Fatal(err)
	}
}

// accountForPackets checks that the fate of every packet is known.
func (k *soakTest) accountForPackets() {
	synctest.Wait()
	k.mu.Lock()
	defer k.mu.Unlock()
	var unsealed [3][3]int
	delivered, lost, refused, vanished := 0, 0, 0, 0
	for n, p := range k.packets {
		switch {
		case p.sealed > 1:
			k.Errorf("packet %d was sealed %d times", n, p.sealed)
		case p.delivered > 0:
			delivered++
		case p.sealed == 0:
			unsealed[p.from][p.to]++
		case p.lost:
			lost++
		case p.arrived == 0:
			vanished++
		case p.refused == p.arrived:
			refused++
		default:
			k.Errorf("packet %d from %d to %d arrived %d times, %d of them too late, but was not delivered",
				n, p.from, p.to, p.arrived, p.refused)
		}
		if p.lost && p.arrived > 0 {
			k.Errorf("packet %d is lost, and arrived", n)
		}
	}
	staged := 0
	for i, e := range k.devices {
		for j, other := range k.devices {
			if i == j {
				continue
			}
			p := e.dev.allowed.ownerOf(other.inner)
			if s := p.stats(); int(s.Dropped) != unsealed[i][j] {
				k.Errorf("from %d to %d: %d packets never left, %d were dropped", i, j, unsealed[i][j], s.Dropped)
			}
			staged += unsealed[i][j]
		}
	}
	s := k.net.Stats()
	if missing := int(s.Unmapped + s.NoRoute); vanished > missing || s.Overflowed > 0 {
		k.Errorf("%d packets vanished, %d datagrams were misdirected and %d too many", vanished, missing, s.Overflowed)
	}
	k.Logf("%d packets: %d delivered, %d lost, %d misdirected, %d refused as too late, %d dropped while staged; %d sessions",
		len(k.packets), delivered, lost, vanished, refused, staged, len(k.ciphers)/2)
	if refused > len(k.ciphers) {
		k.Errorf("%d packets came too late for their keys", refused)
	}
	if !testing.Short() && slices.Contains([]int{delivered, lost, vanished, staged}, 0) {
		k.Error("something that should happen did not")
	}
}
