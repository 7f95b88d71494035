package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/wgstack/wireguard"
)

const demoName = "demo.wg"

var (
	farAddr4  = netip.MustParseAddr("10.66.0.1")
	farAddr6  = netip.MustParseAddr("fd66:de:30::1")
	nearAddr4 = netip.MustParseAddr("10.66.0.2")
	nearAddr6 = netip.MustParseAddr("fd66:de:30::2")
)

// A farEnd is the other end of the demonstration's tunnel: a device of its own,
// reached by UDP over loopback, with a name server and a web server inside.
type farEnd struct {
	near wireguard.Config // what the near end needs

	dev     *wireguard.Device
	web     http.Server
	cancel  context.CancelFunc
	servers sync.WaitGroup
}

func startFarEnd(log *slog.Logger) (_ *farEnd, err error) {
	nearKey, farKey := wireguard.NewPrivateKey(), wireguard.NewPrivateKey()
	dev, err := wireguard.New(wireguard.Config{
		PrivateKey: farKey,
		Address:    []netip.Prefix{host(farAddr4), host(farAddr6)},
		Peers: []wireguard.PeerConfig{{
			PublicKey:  nearKey.PublicKey(),
			AllowedIPs: []netip.Prefix{host(nearAddr4), host(nearAddr6)},
		}},
		Logger: log.With("device", "far"),
	})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	f := &farEnd{dev: dev, cancel: cancel}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()

	names, err := dev.ListenPacket(ctx, "udp", ":53")
	if err != nil {
		return nil, err
	}
	namesTCP, err := dev.Listen(ctx, "tcp", ":53")
	if err != nil {
		return nil, err
	}
	web, err := dev.Listen(ctx, "tcp", ":80")
	if err != nil {
		return nil, err
	}
	f.web = http.Server{
		Handler:           demoSite(),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       time.Minute,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	f.servers.Go(func() { serveNames(names) })
	f.servers.Go(func() { serveNamesTCP(namesTCP, &f.servers) })
	f.servers.Go(func() { f.web.Serve(web) })

	f.near = wireguard.Config{
		PrivateKey: nearKey,
		Address:    []netip.Prefix{host(nearAddr4), host(nearAddr6)},
		DNS:        []netip.Addr{farAddr4, farAddr6},
		Peers: []wireguard.PeerConfig{{
			PublicKey:  farKey.PublicKey(),
			Endpoint:   fmt.Sprintf("127.0.0.1:%d", dev.Stats().ListenPort),
			AllowedIPs: []netip.Prefix{host(farAddr4), host(farAddr6)},
		}},
		Logger: log.With("device", "near"),
	}
	return f, nil
}

// host returns the prefix of one address.
func host(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// Close ends the device, and with it the connections of the servers.
func (f *farEnd) Close() {
	f.cancel()
	f.web.Close()
	f.dev.Close()
	f.servers.Wait()
}

const maxUDPAnswer = 512

// serveNames is a name server by UDP.
func serveNames(pc net.PacketConn) {
	buf := make([]byte, 4096)
	for {
		n, from, err := pc.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		if answer, err := answerName(buf[:n]); err == nil && len(answer) <= maxUDPAnswer {
			pc.WriteTo(answer, from)
		}
	}
}

// serveNamesTCP is the same by TCP, where a length precedes each message.
func serveNamesTCP(l net.Listener, conns *sync.WaitGroup) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		conns.Go(func() {
			defer c.Close()
			for {
				c.SetDeadline(time.Now().Add(10 * time.Second))
				var length [2]byte
				if _, err := io.ReadFull(c, length[:]); err != nil {
					return
				}
				query := make([]byte, binary.BigEndian.Uint16(length[:]))
				if _, err := io.ReadFull(c, query); err != nil {
					return
				}
				answer, err := answerName(query)
				if err != nil {
					return
				}
				answer = append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...)
				if _, err := c.Write(answer); err != nil {
					return
				}
			}
		})
	}
}

// answerName answers a query to a name server that knows one name.
func answerName(query []byte) ([]byte, error) {
	var p dnsmessage.Parser
	h, err := p.Start(query)
	if err != nil {
		return nil, err
	}
	if h.Response {
		return nil, errors.New("not a query")
	}
	q, err := p.Question()
	if err != nil {
		return nil, err
	}
	answer := dnsmessage.Header{
		ID:               h.ID,
		Response:         true,
		OpCode:           h.OpCode,
		Authoritative:    true,
		RecursionDesired: h.RecursionDesired,
	}
	known := strings.EqualFold(q.Name.String(), demoName+".")
	switch {
	case h.OpCode != 0:
		answer.RCode = dnsmessage.RCodeNotImplemented
	case q.Class != dnsmessage.ClassINET:
		answer.RCode = dnsmessage.RCodeRefused
	case !known:
		answer.RCode = dnsmessage.RCodeNameError
	}
	b := dnsmessage.NewBuilder(nil, answer)
	b.EnableCompression()
	if err := b.StartQuestions(); err != nil {
		return nil, err
	}
	if err := b.Question(q); err != nil {
		return nil, err
	}
	if err := b.StartAnswers(); err != nil {
		return nil, err
	}
	if answer.RCode == dnsmessage.RCodeSuccess {
		rh := dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 60}
		switch q.Type {
		case dnsmessage.TypeA:
			err = b.AResource(rh, dnsmessage.AResource{A: farAddr4.As4()})
		case dnsmessage.TypeAAAA:
			err = b.AAAAResource(rh, dnsmessage.AAAAResource{AAAA: farAddr6.As16()})
		}
		if err != nil {
			return nil, err
		}
	}
	return b.Finish()
}
