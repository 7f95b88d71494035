package wireguard

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/wgstack/wireguard/internal/keytext"
)

// The configuration protocol of userspace implementations, spoken by wg(8):
// https://www.wireguard.com/xplatform/#configuration-protocol

const (
	// uapiDir is where wg(8) looks for sockets.
	uapiDir = "/var/run/wireguard"

	// maxUAPILine is the length of the longest line that is accepted.
	maxUAPILine = 4096
	// maxUAPIOperation limits the memory of an operation before its end is read.
	// A million prefixes fit.
	maxUAPIOperation = 64 << 20

	// uapiAcceptPause is the pause after a temporary error of accept, such as too
	// many open files.
	uapiAcceptPause = 100 * time.Millisecond
)

// uapiErrno is the result of an operation: negative error numbers of Linux on
// every system.
type uapiErrno int

const (
	uapiOK        uapiErrno = 0
	uapiIO        uapiErrno = -5
	uapiInvalid   uapiErrno = -22
	uapiOther     uapiErrno = -55
	uapiSyntax    uapiErrno = -71
	uapiPortInUse uapiErrno = -98
)

// ListenUAPI opens the socket at which wg(8) and wgctrl look for the device
// called name: /var/run/wireguard/name.sock, accessible by this user alone.
// Creating it usually needs root. A stale socket is replaced. If another
// process serves the socket, the error wraps EADDRINUSE. On Windows, js/wasm
// and wasip1 the error wraps [errors.ErrUnsupported].
//
// Closing the listener removes the socket. The listener closes itself within a
// second after the socket was removed or replaced by another process, which is
// how such services are stopped.
func ListenUAPI(name string) (net.Listener, error) {
	l, err := listenUAPI(uapiDir, name)
	if err != nil {
		return nil, fmt.Errorf("wireguard: control socket of %q: %w", clip(name), err)
	}
	return l, nil
}

// ServeUAPI serves the configuration protocol of wg(8) on l. Its clients can
// read and change the configuration of the device, secret keys included, so l
// must be a listener that only authorised users can reach, such as that of
// [ListenUAPI].
//
// It serves until the device or l is closed, and then returns nil. On a closed
// device the error wraps [net.ErrClosed]; other errors are those of l. When it
// returns, l and its connections are closed. It may be called several times at
// once with different listeners.
func (d *Device) ServeUAPI(l net.Listener) error {
	d.mu.RLock()
	if d.closed {
		d.mu.RUnlock()
		l.Close()
		return fmt.Errorf("wireguard: %w", errClosed)
	}
	d.background.Add(1) // under the lock: Close must not be waiting already
	d.mu.RUnlock()
	defer d.background.Done()

	ctx, cancel := context.WithCancel(d.ctx)
	var conns sync.WaitGroup
	defer conns.Wait()
	defer closeWith(ctx, l)()
	defer cancel()
	for {
		c, err := l.Accept()
		var transient interface{ Temporary() bool }
		switch {
		case err == nil:
			conns.Go(func() {
				defer closeWith(ctx, c)()
				d.serveUAPI(c)
			})
		case ctx.Err() != nil || errors.Is(err, net.ErrClosed):
			return nil
		case errors.As(err, &transient) && transient.Temporary():
			d.log.Warn("control connection not accepted", "err", err)
			select {
			case <-ctx.Done():
			case <-time.After(uapiAcceptPause):
			}
		default:
			return fmt.Errorf("wireguard: serve control connections: %w", err)
		}
	}
}

// closeWith closes c when ctx ends or end is called. end returns when c is
// closed.
func closeWith(ctx context.Context, c io.Closer) (end func()) {
	closed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(closed)
		c.Close()
	})
	return func() {
		if stop() {
			c.Close()
			return
		}
		<-closed
	}
}

// serveUAPI carries out one operation after another until one is unknown or
// the connection fails.
func (d *Device) serveUAPI(conn io.ReadWriter) {
	in := bufio.NewReaderSize(conn, maxUAPILine)
	out := bufio.NewWriter(conn)
	for {
		op, err := readUAPILine(in)
		if err != nil {
			return
		}
		var errno uapiErrno
		switch string(op) {
		case "get=1":
			if errno = readUAPIBody(in, refuseUAPILine); errno == uapiOK {
				d.uapiState().writeTo(out)
			}
		case "set=1":
			var set uapiSet
			if errno = readUAPIBody(in, set.parseLine); errno == uapiOK {
				errno = d.applyUAPI(set.update)
			}
			set.erase()
		default:
			return
		}
		fmt.Fprintf(out, "errno=%d\n\n", errno)
		err = out.Flush()
		// The output may have held secret keys.
		clear(out.AvailableBuffer()[:out.Available()])
		if err != nil || errno == uapiIO {
			return
		}
	}
}

func (d *Device) applyUAPI(u update) uapiErrno {
	err := d.apply(u)
	switch {
	case err == nil:
		return uapiOK
	case errors.Is(err, errPortInUse):
		return uapiPortInUse
	}
	d.log.Warn("configuration not applied", "err", err)
	return uapiOther
}

var errUAPILine = errors.New("line too long")

// readUAPILine returns the next line without its newline. The line is valid
// until the next read. A line that is too long is skipped and gives
// errUAPILine.
func readUAPILine(in *bufio.Reader) ([]byte, error) {
	line, err := in.ReadSlice('\n')
	if err == nil {
		return line[:len(line)-1], nil
	}
	for {
		clear(line)
		if err != bufio.ErrBufferFull {
			return nil, err
		}
		if line, err = in.ReadSlice('\n'); err == nil {
			err = errUAPILine
		}
	}
}

// readUAPIBody reads the lines of an operation up to the blank one. It passes
// them to parse until one fails.
func readUAPIBody(in *bufio.Reader, parse func(line []byte) uapiErrno) uapiErrno {
	errno, size := uapiOK, 0
	for {
		line, err := readUAPILine(in)
		size += len(line) + 1
		switch {
		case err == errUAPILine:
			if errno == uapiOK {
				errno = uapiInvalid
			}
		case err != nil:
			return uapiIO
		case len(line) == 0:
			return errno
		case errno != uapiOK:
		case size > maxUAPIOperation:
			errno = uapiOther
		default:
			errno = parse(line)
		}
		clear(line) // it may be a secret key
	}
}

// refuseUAPILine parses the lines of a get operation, which must have none.
func refuseUAPILine(line []byte) uapiErrno {
	if bytes.IndexByte(line, '=') < 0 {
		return uapiSyntax
	}
	return uapiInvalid
}

// A uapiSet parses the lines of a set operation into an update. The keys of a
// block may come in any order: replace_allowed_ips, for example, always applies
// to the prefixes from before the operation, as in the kernel.
type uapiSet struct{ update update }

func (s *uapiSet) parseLine(line []byte) uapiErrno {
	name, value, found := bytes.Cut(line, []byte{'='})
	if !found {
		return uapiSyntax
	}
	ok := false
	if u := &s.update; string(name) == "public_key" {
		var p peerUpdate
		p.public, ok = keytext.DecodeHex(value)
		u.peers = append(u.peers, p)
	} else if len(u.peers) > 0 {
		ok = u.peers[len(u.peers)-1].setUAPI(string(name), value)
	} else {
		ok = u.setUAPI(string(name), value)
	}
	if !ok {
		return uapiInvalid
	}
	return uapiOK
}

// erase zeroes the secret keys.
func (s *uapiSet) erase() {
	if k := s.update.privateKey; k != nil {
		clear(k[:])
	}
	for _, p := range s.update.peers {
		if p.psk != nil {
			clear(p.psk[:])
		}
	}
}

// setUAPI adds a device key to u and reports whether it is one.
func (u *update) setUAPI(name string, value []byte) (ok bool) {
	switch name {
	case "private_key":
		if u.privateKey == nil {
			u.privateKey = new(PrivateKey)
		}
		*u.privateKey, ok = keytext.DecodeHex(value)
	case "listen_port":
		n, err := strconv.ParseUint(string(value), 10, 16)
		port := uint16(n)
		u.listenPort, ok = &port, err == nil
	case "fwmark":
		n, err := strconv.ParseUint(string(value), 10, 32)
		mark := uint32(n)
		u.fwmark, ok = &mark, err == nil
	case "replace_peers":
		u.replacePeers = true
		ok = string(value) == "true"
	}
	return ok
}

// setUAPI adds a peer key to u and reports whether it is one.
func (u *peerUpdate) setUAPI(name string, value []byte) (ok bool) {
	switch name {
	case "remove":
		u.remove = true
		ok = string(value) == "true"
	case "update_only":
		u.updateOnly = true
		ok = string(value) == "true"
	case "preshared_key":
		if u.psk == nil {
			u.psk = new(PresharedKey)
		}
		*u.psk, ok = keytext.DecodeHex(value)
	case "endpoint":
		a, err := netip.ParseAddrPort(string(value))
		u.endpoint, ok = netip.AddrPortFrom(a.Addr().Unmap(), a.Port()).String(), err == nil
	case "persistent_keepalive_interval":
		n, err := strconv.ParseUint(string(value), 10, 16)
		interval := time.Duration(n) * time.Second
		u.keepalive, ok = &interval, err == nil
	case "replace_allowed_ips":
		u.replaceAllowedIPs = true
		ok = string(value) == "true"
	case "allowed_ip":
		text, remove := bytes.CutPrefix(value, []byte{'-'})
		p, err := netip.ParsePrefix(string(text))
		if ok = err == nil; ok {
			u.allowedIPs = append(u.allowedIPs, allowedIPChange{canonicalPrefix(p), remove})
		}
	case "protocol_version":
		ok = string(value) == "1"
	}
	return ok
}

// uapiState is the answer to a get operation: everything that a set operation
// can change, and statistics.
type uapiState struct {
	Stats
	privateKey    PrivateKey     // zero: none
	presharedKeys []PresharedKey // in the order of Stats.Peers
}

// uapiState returns a snapshot whose configuration is of one moment.
func (d *Device) uapiState() *uapiState {
	d.mu.RLock()
	defer d.mu.RUnlock()
	s := &uapiState{Stats: d.statsLocked(), presharedKeys: make([]PresharedKey, len(d.peers))}
	if id := d.identity.Load(); id != nil {
		s.privateKey = id.private
	}
	for i := range s.Peers {
		p := d.peers[s.Peers[i].PublicKey]
		p.mu.Lock()
		s.presharedKeys[i] = p.psk
		p.mu.Unlock()
	}
	return s
}

// writeTo writes s, and then zeroes its keys. An error stays in w.
func (s *uapiState) writeTo(w *bufio.Writer) {
	if !s.privateKey.IsZero() {
		writeHexKey(w, "private_key", (*[32]byte)(&s.privateKey))
		clear(s.privateKey[:])
	}
	fmt.Fprintf(w, "listen_port=%d\n", s.ListenPort)
	if s.FwMark != 0 {
		fmt.Fprintf(w, "fwmark=%d\n", s.FwMark)
	}
	for i := range s.Peers {
		p, psk := &s.Peers[i], &s.presharedKeys[i]
		writeHexKey(w, "public_key", (*[32]byte)(&p.PublicKey))
		writeHexKey(w, "preshared_key", (*[32]byte)(psk))
		clear(psk[:])
		w.WriteString("protocol_version=1\n")
		if p.Endpoint.IsValid() {
			fmt.Fprintf(w, "endpoint=%s\n", p.Endpoint)
		}
		var seconds int64 // since 1970; 0: no handshake
		var nanos int
		if t := p.LastHandshake; !t.IsZero() {
			seconds, nanos = t.Unix(), t.Nanosecond()
		}
		fmt.Fprintf(w, "last_handshake_time_sec=%d\nlast_handshake_time_nsec=%d\n", seconds, nanos)
		fmt.Fprintf(w, "tx_bytes=%d\nrx_bytes=%d\n", p.TxBytes, p.RxBytes)
		fmt.Fprintf(w, "persistent_keepalive_interval=%d\n", p.PersistentKeepalive/time.Second)
		for _, prefix := range p.AllowedIPs {
			fmt.Fprintf(w, "allowed_ip=%s\n", prefix)
		}
	}
}

func writeHexKey(w *bufio.Writer, name string, key *[32]byte) {
	text := keytext.EncodeHex(key)
	w.WriteString(name)
	w.WriteByte('=')
	w.Write(text[:])
	w.WriteByte('\n')
	clear(text[:])
}
