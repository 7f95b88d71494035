package wireguard

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"go/ast"
	goparser "go/parser"
	"go/token"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/wgstack/wireguard/internal/fakepeer"
	"github.com/wgstack/wireguard/internal/simnet"
	"github.com/wgstack/wireguard/netstack"
)

const aeon = 20 * time.Minute // longer than any timer

// wantBare expects that the device keeps no trace of a handshake or session.
func (b *bed) wantBare(what string) {
	b.Helper()
	synctest.Wait()
	if n := b.dev.indices.len(); n != 0 {
		b.Fatalf("%s: %d indices", what, n)
	}
}

func TestP91FailedStartLeavesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sim := simnet.New(1)
		defer sim.Close()
		listen := sim.ListenPacket(devOuter)
		taken, err := listen(background, "udp", ":51820")
		if err != nil {
			t.Fatal(err)
		}
		cfg, err := (&Config{
			PrivateKey:   NewPrivateKey(),
			ListenPort:   devPort,
			ListenPacket: listen,
			Peers:        []PeerConfig{{PublicKey: NewPrivateKey().PublicKey(), Endpoint: farOuter.String(), PersistentKeepalive: time.Second}},
		}).canonical()
		if err != nil {
			t.Fatal(err)
		}
		stack := new(fakeStack)
		if err := newDevice(cfg).start(cfg, stack); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("taken port: error %v", err)
		}
		if !stack.closed {
			t.Error("the inner stack is left open")
		}
		taken.Close()
		dev := newDevice(cfg)
		if err := dev.start(cfg, new(fakeStack)); err != nil {
			t.Errorf("port no longer taken: error %v", err)
		}
		dev.Close()
	})
}

func TestP91TakenPortFailsOnTheHost(t *testing.T) {
	taken, err := net.ListenUDP("udp", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	port := uint16(taken.LocalAddr().(*net.UDPAddr).Port)
	d, err := New(Config{PrivateKey: NewPrivateKey(), ListenPort: port})
	if err == nil {
		d.Close()
	}
	if !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("port %d taken: error %v", port, err)
	}
}

// Covers M12.
func TestP92ClosedDeviceFallsSilent(t *testing.T) {
	edit := persistent(time.Second)
	inBed(t, edit, func(b *bed) {
		other := b.add("192.0.2.3:1", "10.0.0.3")
		s := b.far.respond(b.far.wantInitiation("at once"))
		b.far.wantData("completion", s, "")
		b.far.data(s, "arms the keepalive")
		b.output(b.far, "arms the new handshake")
		b.far.wantData("data", s, "arms the new handshake")
		b.output(other, "staged")
		other.want("packet", fakepeer.Initiation)
		p := other.peer()
		b.dev.Close()
		trace := b.net.Trace()
		b.far.write(s.Seal(packet(b.far.ip, devInner, "late")))
		b.far.write(func() []byte { msg, _ := b.far.Initiation(fakepeer.InitiationOptions{}); return msg }())
		b.stack.take()
		time.Sleep(aeon)
		b.wantDelivered("closed")
		b.wantBare("closed")
		for _, d := range trace.All() {
			if d.From.Addr() == devOuter {
				t.Errorf("sent %d bytes to %v", len(d.Payload), d.To)
			}
		}
		if p.staged.packets != 0 || p.keys != (keyring{}) || p.pending != nil || p.timers.next() != (time.Time{}) {
			t.Error("a peer of a closed device keeps packets, keys or timers")
		}
	})
}

func TestP92LosingTheKeyKeepsConfigurationAndTimestamp(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		early, _ := b.far.Initiation(fakepeer.InitiationOptions{})
		b.far.connect()
		moved := b.far.moved(elsewhere)
		moved.accept()
		before := b.far.stats()
		key := b.dev.identity.Load().private
		for _, k := range []PrivateKey{{}, key} {
			if err := b.dev.SetPrivateKey(k); err != nil {
				t.Fatal(err)
			}
		}
		if after := b.far.stats(); fmt.Sprint(after) != fmt.Sprint(before) {
			t.Errorf("%+v became %+v", before, after)
		}
		time.Sleep(time.Minute)
		moved.write(early)
		moved.wantSilence("initiation of before", time.Second)
		b.output(b.far, "x")
		moved.wantInitiation("the key is back")
	})
}

// Covers M12.
func TestP96RemovedPeerIsGone(t *testing.T) {
	inBed(t, persistent(time.Second), func(b *bed) {
		s := b.far.respond(b.far.wantInitiation("at once"))
		b.far.wantData("completion", s, "")
		b.far.data(s, "arms the keepalive")
		b.wantDelivered("data", "arms the keepalive")
		time.Sleep(6 * time.Second)
		b.far.drain()
		next := b.far.initiate("a pair to be confirmed")
		time.Sleep(6 * time.Second)
		waiting := make(chan error, 1)
		go func() { waiting <- b.dev.Handshake(background, b.far.Public) }()
		synctest.Wait()
		if n := b.dev.indices.len(); n < 3 {
			t.Fatalf("%d indices, want those of two pairs and a handshake", n)
		}
		if err := b.dev.RemovePeer(b.far.Public); err != nil {
			t.Fatal(err)
		}
		b.far.drain()
		if err := <-waiting; !errors.Is(err, ErrNoPeer) {
			t.Errorf("handshake with a removed peer: error %v", err)
		}
		b.wantBare("removed")
		b.far.write(s.Seal(packet(b.far.ip, devInner, "late")))
		b.far.write(next.Seal(packet(b.far.ip, devInner, "late")))
		msg, _ := b.far.Initiation(fakepeer.InitiationOptions{})
		b.far.write(msg)
		b.far.wantSilence("removed", aeon)
		b.wantDelivered("removed")
		if err := b.outputPacket(packet(devInner, b.far.ip, "x")); !errors.Is(err, netstack.ErrNoRoute) {
			t.Errorf("packet to a removed peer: error %v", err)
		}
		if err := b.dev.RemovePeer(b.far.Public); !errors.Is(err, ErrNoPeer) {
			t.Errorf("removing again: error %v", err)
		}
		b.setPeer(b.far.config())
		b.far.connect()
	})
}

func TestP96RemovedPeerIsStopped(t *testing.T) {
	for what, change := range map[string]func(r *remote) update{
		"removed":               func(r *remote) update { return update{peers: []peerUpdate{{public: r.Public, remove: true}}} },
		"replaced":              func(r *remote) update { return update{replacePeers: true} },
		"now the device itself": func(r *remote) update { k := PrivateKey(r.Private); return update{private: &k} },
	} {
		inBed(t, nil, func(b *bed) {
			b.far.connect()
			p := b.far.peer()
			if err := b.dev.apply(change(b.far)); err != nil {
				t.Fatal(err)
			}
			b.wantBare(what)
			p.mu.Lock()
			defer p.mu.Unlock()
			if !p.stopped {
				t.Errorf("%s: the peer is still at work", what)
			}
		})
	}
}

func TestP96WorkUnderWayEndsHarmlessly(t *testing.T) {
	for name, begin := range map[string]func(b *bed){
		"our initiation":   func(b *bed) { b.output(b.far, "x") },
		"their initiation": func(b *bed) { msg, _ := b.far.Initiation(fakepeer.InitiationOptions{}); b.far.write(msg) },
	} {
		t.Run(name, func(t *testing.T) {
			inBed(t, nil, func(b *bed) {
				release := b.holdHandshakes()
				begin(b)
				if err := b.dev.RemovePeer(b.far.Public); err != nil {
					t.Fatal(err)
				}
				release()
				b.far.wantSilence("removed meanwhile", aeon)
				b.wantBare("removed meanwhile")
			})
		})
	}
	t.Run("their response", func(t *testing.T) {
		inBed(t, nil, func(b *bed) {
			b.output(b.far, "x")
			hs := b.far.wantInitiation("packet")
			release := b.holdHandshakes()
			b.far.respond(hs)
			if err := b.dev.RemovePeer(b.far.Public); err != nil {
				t.Fatal(err)
			}
			release()
			b.far.wantSilence("removed meanwhile", aeon)
			b.wantBare("removed meanwhile")
		})
	})
	t.Run("sealing", func(t *testing.T) {
		inBed(t, nil, func(b *bed) {
			b.output(b.far, "x")
			hs := b.far.wantInitiation("packet")
			synctest.Wait()
			gate, seal := make(chan struct{}), b.dev.sealers.do
			b.dev.sealers.do = func(batch *sendBatch) {
				<-gate
				seal(batch)
			}
			b.far.respond(hs)
			if err := b.dev.RemovePeer(b.far.Public); err != nil {
				t.Fatal(err)
			}
			close(gate)
			b.far.wantSilence("removed meanwhile", aeon)
		})
	})
}

func TestP96RemovalWaitsForDelivery(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		s := b.far.connect()
		b.stack.block = make(chan struct{})
		b.far.data(s, "being delivered")
		b.far.data(s, "behind it")
		var removed atomic.Bool
		go func() {
			b.dev.RemovePeer(b.far.Public)
			removed.Store(true)
		}()
		synctest.Wait()
		if removed.Load() {
			t.Error("returned while a packet was being delivered")
		}
		close(b.stack.block)
		synctest.Wait()
		if !removed.Load() {
			t.Error("did not return")
		}
		b.wantDelivered("only what was under way", "being delivered")
	})
}

// Covers M19.
func TestP96StormOfChanges(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		var peers []*remote
		for i := range 16 {
			peers = append(peers, b.add(fmt.Sprintf("192.0.2.100:%d", 1000+i), fmt.Sprintf("10.1.0.%d", i)))
		}
		var wg sync.WaitGroup
		for i, r := range peers {
			cfg := r.config()
			cfg.PersistentKeepalive = time.Second
			msg, _ := r.Initiation(fakepeer.InitiationOptions{})
			wg.Go(func() {
				for range 4 {
					b.dev.RemovePeer(r.Public)
					b.dev.SetPeer(cfg)
					r.sock.WriteToUDPAddrPort(msg, netip.AddrPortFrom(devOuter, devPort))
					b.outputPacket(packet(devInner, r.ip, "x"))
					b.dev.Stats()
					time.Sleep(time.Duration(i) * time.Millisecond)
				}
			})
			wg.Go(func() {
				for range 4 {
					b.dev.RemovePeer(r.Public)
					time.Sleep(7 * time.Millisecond)
				}
			})
		}
		wg.Wait()
		for _, r := range append(peers, b.far) {
			b.dev.RemovePeer(r.Public)
		}
		time.Sleep(time.Second)
		b.wantBare("all removed")
		if n := len(b.dev.Stats().Peers); n != 0 {
			t.Errorf("%d peers left", n)
		}
	})
}

// stuckStack delivers nothing until it is closed, which takes a while.
type stuckStack struct {
	fakeStack
	done  chan struct{}
	delay time.Duration
}

func (s *stuckStack) Deliver([][]byte) { <-s.done }

func (s *stuckStack) Close() error {
	time.Sleep(s.delay)
	close(s.done)
	return nil
}

// Covers M07.
func TestP97CloseUnblocksEverything(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		b.dev.inner = &stuckStack{done: make(chan struct{})}
		b.dev.lookupHost = func(ctx context.Context, _ string) ([]netip.Addr, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		s := b.far.connect()
		named := b.remoteFor(b.far.Remote, netip.MustParseAddrPort("192.0.2.3:1"), netip.MustParseAddr("10.0.0.3"))
		cfg := named.config()
		cfg.Endpoint = "named.example:51820"
		b.setPeer(cfg)
		b.output(named, "waits for a lookup")
		for range 10 {
			b.far.data(s, "waits for the stack")
		}
		p := b.far.peer()
		held := newSendBatch(p, maxMessage) // keeps the lane full
		p.out.push(held, b.dev.laneBytesOut())
		var ended atomic.Int32
		for _, call := range []func(){
			func() { b.outputPacket(packet(devInner, b.far.ip, "waits for room")) },
			func() { b.dev.Handshake(background, named.Public) },
			func() { b.dev.reach(background, named.ip) },
		} {
			go func() {
				call()
				ended.Add(1)
			}()
		}
		synctest.Wait()
		if n := ended.Load(); n != 0 {
			t.Fatalf("%d of the calls did not block", n)
		}
		start := time.Now()
		b.dev.Close()
		if d := time.Since(start); d > time.Second {
			t.Errorf("Close took %v", d)
		}
		synctest.Wait()
		if n := ended.Load(); n != 3 {
			t.Errorf("%d of 3 calls ended", n)
		}
	})
}

func TestP97CloseWaitsForTheStack(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		b.dev.inner = &stuckStack{done: make(chan struct{}), delay: 3 * time.Second}
		s := b.far.connect()
		start := time.Now()
		time.AfterFunc(2*time.Second, func() { b.outputPacket(packet(devInner, b.far.ip, "x")) })
		b.dev.Close()
		if d := time.Since(start); d != 3*time.Second {
			t.Errorf("Close returned after %v", d)
		}
		b.far.keepalive(s)
		b.far.wantSilence("the stack takes its time, the sockets do not", aeon)
	})
}

func TestP97CloseIsIdempotent(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		b.dev.inner = &stuckStack{done: make(chan struct{})}
		b.far.connect()
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				if err := b.dev.Close(); err != nil {
					t.Error(err)
				}
				if n := b.dev.indices.len(); n != 0 {
					t.Errorf("a Close returned before the end, with %d indices", n)
				}
			})
		}
		wg.Wait()
		if err := b.dev.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestP97ClosedDeviceRefuses(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		b.dev.Close()
		for name, err := range map[string]error{
			"SetPeer":       b.dev.SetPeer(b.far.config()),
			"SetPrivateKey": b.dev.SetPrivateKey(NewPrivateKey()),
			"Rebind":        b.dev.Rebind(),
		} {
			if !errors.Is(err, net.ErrClosed) {
				t.Errorf("%s: error %v", name, err)
			}
		}
		if err := b.dev.Handshake(background, b.far.Public); err == nil {
			t.Error("Handshake: no error")
		}
		b.dev.Stats()
		b.outputPacket(packet(devInner, b.far.ip, "x"))
		b.far.wantSilence("closed", aeon)
	})
}

// Covers M08.
func TestP97CloseDuringChangesAndFlood(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		s := b.far.connect()
		var wg sync.WaitGroup
		stop := make(chan struct{})
		loop := func(f func()) {
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					case <-time.After(time.Microsecond):
						f()
					}
				}
			})
		}
		msg, _ := b.far.Initiation(fakepeer.InitiationOptions{})
		dev := netip.AddrPortFrom(devOuter, devPort)
		loop(func() { b.far.sock.WriteToUDPAddrPort(msg, dev) })
		loop(func() { b.far.sock.WriteToUDPAddrPort(s.Seal(packet(b.far.ip, devInner, "in")), dev) })
		loop(func() { b.outputPacket(packet(devInner, b.far.ip, "out")) })
		loop(func() { b.dev.SetPeer(b.far.config()) })
		loop(func() { b.dev.SetPrivateKey(NewPrivateKey()) })
		loop(func() { b.dev.RemovePeer(b.far.Public) })
		loop(func() { b.dev.Rebind() })
		loop(func() { b.dev.Stats() })
		time.Sleep(200 * time.Microsecond)
		start := time.Now()
		b.dev.Close()
		if d := time.Since(start); d > time.Second {
			t.Errorf("Close took %v", d)
		}
		time.Sleep(50 * time.Microsecond)
		close(stop)
		wg.Wait()
		b.wantBare("closed")
	})
}

func TestP97NothingIsLeftOnTheHost(t *testing.T) {
	start := func() *Device {
		d, err := New(Config{
			PrivateKey: NewPrivateKey(),
			Address:    prefixes("10.0.0.1/32", "fd00::1/128"),
			Peers: []PeerConfig{{
				PublicKey: NewPrivateKey().PublicKey(), Endpoint: "127.0.0.1:9",
				AllowedIPs: prefixes("10.0.0.2/32"), PersistentKeepalive: time.Second,
			}},
		})
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	start().Close() // what is made once
	before := runtime.NumGoroutine()
	for range 3 {
		d := start()
		l, err := d.Listen(background, "tcp", ":80")
		if err != nil {
			t.Fatal(err)
		}
		accepted := make(chan error)
		go func() {
			_, err := l.Accept()
			accepted <- err
		}()
		d.Close()
		if err := <-accepted; err == nil {
			t.Error("Accept: no error after Close")
		}
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if runtime.NumGoroutine() <= before {
			break
		}
		if time.Now().After(end) {
			buf := make([]byte, 1<<20)
			t.Fatalf("%d goroutines, %d before\n%s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
		}
	}
}

func TestP98SecretsAreErased(t *testing.T) {
	bare := func(what string, i *initiator) {
		t.Helper()
		if i.state != (symmetricState{}) || i.ephemeral != nil {
			t.Errorf("%s: the handshake keeps its secrets", what)
		}
	}
	edit := func(cfg *Config) { cfg.Peers[0].PresharedKey = NewPresharedKey() }
	inBed(t, edit, func(b *bed) {
		p := b.far.peer()
		b.far.PSK = p.psk
		pending := func() *initiator {
			synctest.Wait()
			p.mu.Lock()
			defer p.mu.Unlock()
			return p.pending
		}
		b.output(b.far, "x")
		b.far.want("packet", fakepeer.Initiation)
		first := pending()
		hs := b.far.wantInitiation("retry")
		bare("replaced", first)
		second := pending()
		s := b.far.respond(hs)
		b.far.wantData("completion", s, "x")
		bare("completed", second)
		time.Sleep(rekeyTimeout)
		b.far.handshake("on demand")
		third := pending()
		p.mu.Lock()
		something := p.ss != (staticSecret{}) && p.psk != (PresharedKey{}) && third != nil && p.keys.current != nil
		p.mu.Unlock()
		if !something {
			t.Fatal("nothing to erase")
		}
		if err := b.dev.RemovePeer(b.far.Public); err != nil {
			t.Fatal(err)
		}
		bare("removed", third)
		if p.ss != (staticSecret{}) || p.ssOf != nil || p.psk != (PresharedKey{}) || p.keys != (keyring{}) || p.pending != nil {
			t.Error("a removed peer keeps its secrets")
		}
	})
	inBed(t, nil, func(b *bed) {
		p := b.far.peer()
		b.far.connect()
		if err := b.dev.SetPrivateKey(PrivateKey{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if p.ss != (staticSecret{}) || p.ssOf != nil {
			t.Error("the shared secret outlives the private key")
		}
	})

	k := transportKeys{send: [32]byte{1}, receive: [32]byte{2}}
	k.erase()
	r := responder{state: wireguardState}
	r.erase()
	if k != (transportKeys{}) || r.state != (symmetricState{}) {
		t.Error("erase leaves something")
	}
}

func TestP98KeysAreDroppedOnErasure(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		s := b.far.connect()
		b.far.keepalive(s)
		p := b.far.peer()
		time.Sleep(eraseAfterTime + time.Second)
		b.wantBare("erased")
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.keys != (keyring{}) || p.pending != nil {
			t.Error("keys outlive their erasure")
		}
	})
}

// sources parses the files of the module's own packages that are not tests.
func sources(t *testing.T) map[string]*ast.File {
	t.Helper()
	files := make(map[string]*ast.File)
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		switch name := d.Name(); {
		case d.IsDir() && (name == "examples" || name == "bench" || name == "testdata" || name == "fakepeer" || name == "simnet" || name != "." && name[0] == '.'):
			return filepath.SkipDir
		case d.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go"):
			return nil
		}
		files[path], err = goparser.ParseFile(token.NewFileSet(), path, nil, goparser.SkipObjectResolution)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// Timing cannot be tested, but how secrets are compared can: with the word
// subtle in it.
func TestP99SecretsAreComparedInConstantTime(t *testing.T) {
	calls := func(body ast.Node, pkg, name string) (found bool) {
		ast.Inspect(body, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok && s.Sel.Name == name {
				x, ok := s.X.(*ast.Ident)
				found = found || ok && x.Name == pkg
			}
			return true
		})
		return found
	}
	comparing := map[string]bool{
		"validMAC1": false, "validMAC2": false, // MACs
		"isZeroKey": false, "PrivateKey.equal": false, "PresharedKey.equal": false,
	}
	for path, file := range sources(t) {
		if strings.Contains(path, string(filepath.Separator)) {
			continue
		}
		for _, decl := range file.Decls {
			f, ok := decl.(*ast.FuncDecl)
			if !ok {
				continue
			}
			name := f.Name.Name
			if f.Recv != nil {
				recv := f.Recv.List[0].Type
				if star, ok := recv.(*ast.StarExpr); ok {
					recv = star.X
				}
				if id, ok := recv.(*ast.Ident); ok && strings.HasSuffix(id.Name, "Key") {
					name = id.Name + "." + name
				}
			}
			if calls(f, "bytes", "Equal") || calls(f, "slices", "Equal") && path != "parse.go" && path != "config.go" && path != "uapi.go" {
				t.Errorf("%s: %s compares bytes in variable time", path, name)
			}
			if calls(f, "bytes", "Compare") && path != "tai64n.go" && path != "uapi.go" {
				t.Errorf("%s: %s compares bytes in variable time", path, name)
			}
			if _, ok := comparing[name]; ok {
				if !calls(f, "subtle", "ConstantTimeCompare") && !calls(f, "subtle", "ConstantTimeEq") {
					t.Errorf("%s: %s does not compare in constant time", path, name)
				}
				comparing[name] = true
			}
		}
	}
	for name, seen := range comparing {
		if !seen {
			t.Errorf("no %s", name)
		}
	}
}

func TestP100OnlyTheSystemsRandomSource(t *testing.T) {
	allowed := map[string]bool{
		"timers.go":       true, // jitter
		"netstack/dns.go": true, // ids of queries inside the tunnel
	}
	for path, file := range sources(t) {
		for _, i := range file.Imports {
			if strings.Contains(i.Path.Value, "math/rand") && !allowed[filepath.ToSlash(path)] {
				t.Errorf("%s imports %s", path, i.Path.Value)
			}
		}
	}
}

func TestP100RandomFailureAborts(t *testing.T) {
	const use = "WIREGUARD_TEST_RANDOM"
	uses := map[string]func(){
		"private key":   func() { NewPrivateKey() },
		"preshared key": func() { NewPresharedKey() },
		"index":         func() { new(indexTable).reserve(nil) },
		"cookie secret": func() { new(cookieJar).cookie(time.Now(), farOuter) },
	}
	if f := uses[os.Getenv(use)]; f != nil {
		rand.Reader = iotest.ErrReader(errors.New("no entropy today"))
		f()
		os.Exit(0)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Skip(err)
	}
	for name := range uses {
		cmd := exec.Command(exe, "-test.run=^TestP100RandomFailureAborts$")
		cmd.Env = append(os.Environ(), use+"="+name)
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Skip(err)
		}
		if err == nil || !bytes.Contains(out, []byte("no entropy today")) {
			t.Errorf("%s: went on without randomness: %v\n%s", name, err, out)
		}
	}
}

func TestP100NoKeyIsLogged(t *testing.T) {
	var log lockedBuffer
	psk := NewPresharedKey()
	var private PrivateKey
	edit := func(cfg *Config) {
		cfg.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug - 10}))
		cfg.Peers[0].PresharedKey = psk
		private = cfg.PrivateKey
	}
	inBed(t, edit, func(b *bed) {
		b.far.PSK = psk
		s := b.far.connect()
		b.far.data(s, "x")
		other := b.far.accept()
		b.dev.lookupHost = func(context.Context, string) ([]netip.Addr, error) { return nil, errors.New("no such host") }
		b.setPeer(PeerConfig{PublicKey: NewPrivateKey().PublicKey(), Endpoint: "nowhere.example:1", PersistentKeepalive: time.Second})
		time.Sleep(10 * time.Minute)
		b.dev.log.Info("all of it", "config", Config{PrivateKey: private, Peers: []PeerConfig{{PresharedKey: psk}}}, "key", private, "psk", psk)
		if log.Len() == 0 {
			t.Fatal("nothing was logged")
		}
		for name, key := range map[string][32]byte{
			"private": private, "preshared": psk, "ss": b.far.peer().ss,
			"send": s.RecvKey, "receive": s.SendKey, "send again": other.RecvKey, "receive again": other.SendKey,
		} {
			for _, form := range []string{
				base64.StdEncoding.EncodeToString(key[:])[:20], hex.EncodeToString(key[:])[:20], string(key[:8]),
				strings.Trim(fmt.Sprint(key[:8]), "[]"),
			} {
				if strings.Contains(log.String(), form) {
					t.Errorf("the %s key was logged", name)
				}
			}
		}
	})
}

type lockedBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.String()
}
