package netstack

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// A nameServer answers questions on port 53 of a stack.
type nameServer struct {
	mu      sync.Mutex
	records map[string][]dnsmessage.ResourceBody // guarded by mu: by name with its dot, lower case
	code    map[string]dnsmessage.RCode
	asked   []string // guarded by mu: "A name tcp"

	// intercept, if not nil, sends whatever else it wants before the answer, and reports whether to send that.
	intercept func(q dnsmessage.Message, send func([]byte)) bool
}

func (n *nameServer) serve(t testing.TB, s *Stack) {
	pc := listenPacket(t, s, "udp", ":53")
	go func() {
		b := make([]byte, 2000)
		for {
			m, from, err := pc.ReadFrom(b)
			if err != nil {
				return
			}
			n.answer(b[:m], "udp", func(b []byte) { pc.WriteTo(b, from) })
		}
	}()
	l := listen(t, s, "tcp", ":53")
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				var size [2]byte
				io.ReadFull(c, size[:])
				b := make([]byte, binary.BigEndian.Uint16(size[:]))
				io.ReadFull(c, b)
				n.answer(b, "tcp", func(b []byte) { c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...)) })
			}()
		}
	}()
}

func (n *nameServer) answer(b []byte, transport string, send func([]byte)) {
	var m dnsmessage.Message
	if err := m.Unpack(b); err != nil || len(m.Questions) != 1 {
		return
	}
	q := m.Questions[0]
	name := strings.ToLower(q.Name.String())
	n.mu.Lock()
	defer n.mu.Unlock()
	n.asked = append(n.asked, strings.TrimPrefix(q.Type.String(), "Type")+" "+name+" "+transport)
	if n.intercept != nil && !n.intercept(m, send) {
		return
	}
	r := dnsmessage.Message{Header: dnsmessage.Header{ID: m.ID, Response: true, RecursionAvailable: true}, Questions: m.Questions}
	r.RCode = n.code[name]
	if _, ok := n.records[name]; !ok && r.RCode == 0 {
		r.RCode = dnsmessage.RCodeNameError
	}
	n.addRecords(&r, name, q.Type)
	b, err := r.Pack()
	if err != nil {
		panic(err)
	}
	if transport == "udp" && len(b) > 512 {
		r.Truncated, r.Answers = true, nil
		b, _ = r.Pack()
	}
	send(b)
}

// addRecords appends what is known of name, and of its aliases.
func (n *nameServer) addRecords(r *dnsmessage.Message, name string, typ dnsmessage.Type) {
	for _, body := range n.records[name] {
		h := dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName(name), Class: dnsmessage.ClassINET}
		if alias, ok := body.(*dnsmessage.CNAMEResource); ok {
			n.addRecords(r, alias.CNAME.String(), typ) // aliases last: order must not matter
			r.Answers = append(r.Answers, dnsmessage.Resource{Header: h, Body: body})
			continue
		}
		_, v4 := body.(*dnsmessage.AResource)
		if v4 == (typ == dnsmessage.TypeA) {
			r.Answers = append(r.Answers, dnsmessage.Resource{Header: h, Body: body})
		}
	}
}

func record(addr string) dnsmessage.ResourceBody {
	a := netip.MustParseAddr(addr)
	if a.Is4() {
		return &dnsmessage.AResource{A: a.As4()}
	}
	return &dnsmessage.AAAAResource{AAAA: a.As16()}
}

func alias(name string) dnsmessage.ResourceBody {
	return &dnsmessage.CNAMEResource{CNAME: dnsmessage.MustNewName(name)}
}

// questions returns what was asked since it was last called.
func (n *nameServer) questions() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	q := n.asked
	n.asked = nil
	slices.Sort(q)
	return q
}

func (n *nameServer) change(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f()
}

// joinDNS returns stacks joined, a's name server being in b.
func joinDNS(t testing.TB, n *nameServer, change func(a, b *Config)) *pair {
	p := join(t, func(a, b *Config) {
		a.DNS = []netip.Addr{b4}
		if change != nil {
			change(a, b)
		}
	})
	n.serve(t, p.b)
	return p
}

func addrs(list ...string) (out []netip.Addr) {
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

func TestLookup(t *testing.T) {
	many := make([]dnsmessage.ResourceBody, 100)
	var manyAddrs []netip.Addr
	for i := range many {
		a := netip.AddrFrom4([4]byte{192, 0, 2, byte(i)})
		many[i] = &dnsmessage.AResource{A: a.As4()}
		manyAddrs = append(manyAddrs, a)
	}
	n := &nameServer{
		records: map[string][]dnsmessage.ResourceBody{
			"both.example.":    {record("192.0.2.1"), record("2001:db8::1"), record("192.0.2.2")},
			"four.example.":    {record("192.0.2.4")},
			"six.example.":     {record("2001:db8::6")},
			"none.example.":    {},
			"alias.example.":   {alias("alias2.example.")},
			"alias2.example.":  {alias("both.example.")},
			"many.example.":    many,
			"host.corp.test.":  {record("192.0.2.7")},
			"bare.":            {record("192.0.2.8")},
			"a.b.corp.test.":   {record("192.0.2.9")},
			"mapped.example.":  {&dnsmessage.AAAAResource{AAAA: netip.MustParseAddr("::ffff:192.0.2.1").As16()}},
			"nowhere.example.": {alias("absent.example.")},
		},
		code: map[string]dnsmessage.RCode{"broken.example.": dnsmessage.RCodeServerFailure},
	}
	p := joinDNS(t, n, func(a, b *Config) { a.Search = []string{"corp.test", "other.test."} })
	for _, c := range []struct {
		network, host string
		want          []netip.Addr
		asked         []string // nil: not checked
	}{
		{"ip", "both.example", addrs("192.0.2.1", "192.0.2.2", "2001:db8::1"), []string{"A both.example. udp", "AAAA both.example. udp"}},
		{"ip4", "BOTH.example.", addrs("192.0.2.1", "192.0.2.2"), []string{"A both.example. udp"}},
		{"ip6", "both.example", addrs("2001:db8::1"), []string{"AAAA both.example. udp"}},
		{"ip", "four.example", addrs("192.0.2.4"), nil},
		{"ip", "six.example", addrs("2001:db8::6"), nil},
		{"ip", "alias.example", addrs("192.0.2.1", "192.0.2.2", "2001:db8::1"), nil},
		{"ip4", "many.example", manyAddrs, []string{"A many.example. tcp", "A many.example. udp"}},
		{"ip4", "host", addrs("192.0.2.7"), []string{"A host.corp.test. udp"}},
		{"ip4", "bare", addrs("192.0.2.8"), []string{"A bare. udp", "A bare.corp.test. udp", "A bare.other.test. udp"}},
		{"ip4", "bare.", addrs("192.0.2.8"), []string{"A bare. udp"}},
		{"ip4", "a.b", addrs("192.0.2.9"), []string{"A a.b. udp", "A a.b.corp.test. udp"}},
		{"ip6", "mapped.example", addrs("192.0.2.1"), nil},
		{"ip", "192.0.2.77", addrs("192.0.2.77"), []string{}},
		{"ip", "::ffff:192.0.2.77", addrs("192.0.2.77"), []string{}},
		{"ip6", "2001:db8::77", addrs("2001:db8::77"), []string{}},
	} {
		n.questions()
		got, err := p.a.LookupNetIP(testContext(t), c.network, c.host)
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("LookupNetIP(%s, %s) = %v, %v, want %v", c.network, c.host, got, err, c.want)
		}
		if q := n.questions(); c.asked != nil && !slices.Equal(q, c.asked) {
			t.Errorf("LookupNetIP(%s, %s) asked for %q, want %q", c.network, c.host, q, c.asked)
		}
	}

	for _, c := range []struct {
		network, host string
		notFound      bool
	}{
		{"ip", "absent.example.", true},
		{"ip", "absent", true},
		{"ip4", "six.example.", true},
		{"ip", "none.example.", true},
		{"ip", "nowhere.example.", true},
		{"ip", "broken.example.", false},
		{"ip4", "2001:db8::1", true},
		{"ip6", "192.0.2.1", true},
		{"ip", "", true},
		{"ip", ".", true},
		{"ip", "a..b", true},
		{"ip", "localhost", true},
		{"ip", "Localhost.", true},
		{"ip", "a.localhost.", true},
		{"ip", strings.Repeat("a", 64) + ".example.", true},
		{"ip", strings.Repeat("a.", 200), true},
		{"ip5", "both.example", false},
	} {
		n.questions()
		got, err := p.a.LookupNetIP(testContext(t), c.network, c.host)
		if q := n.questions(); strings.Contains(c.host, "ocalhost") && len(q) > 0 {
			t.Errorf("LookupNetIP(%s, %q) asked for %q", c.network, c.host, q)
		}
		var de *net.DNSError
		if !errors.As(err, &de) {
			t.Errorf("LookupNetIP(%s, %q) = %v, %v, want a *net.DNSError", c.network, c.host, got, err)
			continue
		}
		if de.IsNotFound != c.notFound || de.IsTimeout || de.Name != c.host {
			t.Errorf("LookupNetIP(%s, %q): %#v, want IsNotFound %v", c.network, c.host, de, c.notFound)
		}
	}
	if _, err := p.b.LookupNetIP(testContext(t), "ip", "both.example"); !errors.Is(err, errNoServers) {
		t.Errorf("without servers: %v, want %v", err, errNoServers)
	}
}

// TestLookupForged sends all kinds of wrong answers before the right one.
func TestLookupForged(t *testing.T) {
	n := &nameServer{records: map[string][]dnsmessage.ResourceBody{"host.example.": {record("192.0.2.1")}}}
	n.intercept = func(q dnsmessage.Message, send func([]byte)) bool {
		forge := func(f func(m *dnsmessage.Message)) {
			m := dnsmessage.Message{Header: dnsmessage.Header{ID: q.ID, Response: true}, Questions: slices.Clone(q.Questions)}
			m.Answers = []dnsmessage.Resource{{
				Header: dnsmessage.ResourceHeader{Name: q.Questions[0].Name, Class: dnsmessage.ClassINET},
				Body:   record("203.0.113.66"),
			}}
			f(&m)
			b, err := m.Pack()
			if err != nil {
				panic(err)
			}
			send(b)
		}
		forge(func(m *dnsmessage.Message) { m.ID++ })
		forge(func(m *dnsmessage.Message) { m.Response = false })
		forge(func(m *dnsmessage.Message) { m.Questions = nil })
		forge(func(m *dnsmessage.Message) { m.Questions[0].Name = dnsmessage.MustNewName("other.example.") })
		forge(func(m *dnsmessage.Message) { m.Questions[0].Type = dnsmessage.TypeMX })
		forge(func(m *dnsmessage.Message) { m.Questions[0].Class = dnsmessage.ClassCHAOS })
		send([]byte{})
		send([]byte("garbage"))
		send(binary.BigEndian.AppendUint16(nil, q.ID))
		return true
	}
	p := joinDNS(t, n, nil)
	got, err := p.a.LookupNetIP(testContext(t), "ip4", "host.example")
	if err != nil || !slices.Equal(got, addrs("192.0.2.1")) {
		t.Errorf("LookupNetIP = %v, %v", got, err)
	}
}

// TestLookupUnrelated answers with records for a name that was not asked for.
func TestLookupUnrelated(t *testing.T) {
	n := &nameServer{}
	n.intercept = func(q dnsmessage.Message, send func([]byte)) bool {
		m := dnsmessage.Message{Header: dnsmessage.Header{ID: q.ID, Response: true}, Questions: q.Questions}
		m.Answers = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName("other.example."), Class: dnsmessage.ClassINET},
			Body:   record("203.0.113.66"),
		}, {
			Header: dnsmessage.ResourceHeader{Name: q.Questions[0].Name, Class: dnsmessage.ClassINET},
			Body:   alias(q.Questions[0].Name.String()), // a loop
		}}
		b, _ := m.Pack()
		send(b)
		return false
	}
	p := joinDNS(t, n, nil)
	got, err := p.a.LookupNetIP(testContext(t), "ip4", "host.example")
	var de *net.DNSError
	if !errors.As(err, &de) || !de.IsNotFound {
		t.Errorf("LookupNetIP = %v, %v, want not found", got, err)
	}
}

// TestLookupNoEDNS has a server that knows nothing of EDNS(0).
func TestLookupNoEDNS(t *testing.T) {
	for _, code := range []dnsmessage.RCode{dnsmessage.RCodeFormatError, dnsmessage.RCodeNotImplemented} {
		n := &nameServer{records: map[string][]dnsmessage.ResourceBody{"host.example.": {record("192.0.2.1")}}}
		n.intercept = func(q dnsmessage.Message, send func([]byte)) bool {
			if len(q.Additionals) == 0 {
				return true
			}
			m := dnsmessage.Message{Header: dnsmessage.Header{ID: q.ID, Response: true, RCode: code}}
			b, _ := m.Pack()
			send(b)
			return false
		}
		p := joinDNS(t, n, nil)
		got, err := p.a.LookupNetIP(testContext(t), "ip4", "host.example")
		if err != nil || !slices.Equal(got, addrs("192.0.2.1")) {
			t.Errorf("LookupNetIP = %v, %v", got, err)
		}
	}
}

func TestLookupServers(t *testing.T) {
	n := &nameServer{records: map[string][]dnsmessage.ResourceBody{"host.example.": {record("192.0.2.1")}}}
	var lost atomic.Int64
	p := joinDNS(t, n, func(a, b *Config) {
		a.DNS = addrs("10.0.0.9", "10.0.0.8", "10.0.0.2") // silent, unreachable, good
		output := a.Output
		a.Output = func(p *Packet) error {
			if p.Destination() == netip.MustParseAddr("10.0.0.8") {
				return ErrNoRoute
			}
			return output(p)
		}
	})
	p.a.dns.timeout = 50 * time.Millisecond
	got, err := p.a.LookupNetIP(testContext(t), "ip4", "host.example")
	if err != nil || !slices.Equal(got, addrs("192.0.2.1")) {
		t.Errorf("LookupNetIP = %v, %v", got, err)
	}

	// The good one loses the first question.
	n.change(func() {
		n.intercept = func(dnsmessage.Message, func([]byte)) bool { return lost.Add(1) > 1 }
	})
	got, err = p.a.LookupNetIP(testContext(t), "ip4", "host.example")
	if err != nil || !slices.Equal(got, addrs("192.0.2.1")) {
		t.Errorf("LookupNetIP = %v, %v", got, err)
	}

	n.change(func() { n.intercept = func(dnsmessage.Message, func([]byte)) bool { return false } })
	p.a.dns.timeout = 10 * time.Millisecond
	_, err = p.a.LookupNetIP(testContext(t), "ip", "host.example")
	var de *net.DNSError
	if !errors.As(err, &de) || !de.IsTimeout || !de.IsTemporary || de.IsNotFound {
		t.Errorf("with silent servers: %#v, want a timeout", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err = p.a.LookupNetIP(ctx, "ip", "host.example"); !errors.Is(err, context.Canceled) || !errors.As(err, &de) {
		t.Errorf("cancelled: %v", err)
	}

	p.a.cfg.DNS = addrs("10.0.0.8")
	p.a.dns.timeout = 0
	if _, err = p.a.LookupNetIP(testContext(t), "ip", "host.example"); !errors.Is(err, syscall.EHOSTUNREACH) || !errors.As(err, &de) {
		t.Errorf("unreachable: %v, want EHOSTUNREACH", err)
	}
}

func TestLookupReach(t *testing.T) {
	cause := errors.New("the peer is dead")
	s := newStack(t, Config{
		Addresses: prefixes(a4),
		DNS:       addrs("10.0.0.2"),
		Output:    func(*Packet) error { return nil },
		Reach:     func(context.Context, netip.Addr) error { return cause },
	})
	_, err := s.DialContext(testContext(t), "tcp", "host.example:80")
	wantOpError(t, err, "dial", "tcp", cause)
	var de *net.DNSError
	if !errors.As(err, &de) || de.IsTimeout || de.IsNotFound {
		t.Errorf("%v is not the right *net.DNSError", err)
	}
}

func TestDialName(t *testing.T) {
	n := &nameServer{records: map[string][]dnsmessage.ResourceBody{
		"both.example.":   {record("10.0.0.2"), record("fd00::2")},
		"second.example.": {record("10.0.0.9"), record("10.0.0.2")}, // the first is silent
	}}
	p := joinDNS(t, n, nil)
	listen(t, p.b, "tcp", ":80")
	for _, c := range []struct{ network, host, want string }{
		{"tcp", "both.example:80", "[fd00::2]:80"},
		{"tcp4", "both.example:80", "10.0.0.2:80"},
		{"tcp6", "both.example:80", "[fd00::2]:80"},
		{"tcp", "second.example:http", "10.0.0.2:80"},
		{"udp", "both.example:80", "[fd00::2]:80"},
	} {
		conn, err := p.a.DialContext(testContext(t), c.network, c.host)
		if err != nil {
			t.Errorf("dialling %s %s: %v", c.network, c.host, err)
			continue
		}
		if got := conn.RemoteAddr().String(); got != c.want {
			t.Errorf("dialling %s %s reached %s, want %s", c.network, c.host, got, c.want)
		}
		conn.Close()
	}
	_, err := p.a.DialContext(testContext(t), "tcp", "absent.example.:80")
	wantOpError(t, err, "dial", "tcp", nil)
	var de *net.DNSError
	if !errors.As(err, &de) || !de.IsNotFound {
		t.Errorf("dialling an absent name: %v", err)
	}

	// The next address is dialled as soon as one fails.
	listen(t, p.b, "tcp4", ":82")
	first := time.Now()
	if conn, err := p.a.DialContext(testContext(t), "tcp", "both.example:82"); err != nil {
		t.Error(err)
	} else {
		conn.Close()
	}
	if d := time.Since(first); d > attemptDelay {
		t.Errorf("it took %v to dial the second address", d)
	}

	// A broken family costs one attempt delay; one that refuses costs nothing.
	p.fromA.setFilter(func(b []byte) bool { return b[0]>>4 == 4 })
	start := time.Now()
	conn, err := p.a.DialContext(testContext(t), "tcp", "both.example:80")
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if d := time.Since(start); d < attemptDelay || d > 4*attemptDelay {
		t.Errorf("dialling took %v with IPv6 broken, want about %v", d, attemptDelay)
	}
	p.fromA.setFilter(nil)
	start = time.Now()
	if _, err := p.a.DialContext(testContext(t), "tcp", "both.example:81"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dialling a free port: %v, want ECONNREFUSED", err)
	}
	if d := time.Since(start); d > attemptDelay {
		t.Errorf("it took %v to be refused twice", d)
	}
}

func TestDialOrder(t *testing.T) {
	s := join(t, nil).a
	got, err := s.dialOrder(addrs("10.0.0.1", "10.0.0.2", "fd00::1", "10.0.0.3", "fd00::2"))
	if want := addrs("fd00::1", "10.0.0.1", "fd00::2", "10.0.0.2", "10.0.0.3"); err != nil || !slices.Equal(got, want) {
		t.Errorf("order is %v, %v, want %v", got, err, want)
	}
}

// raceConn is a connection in a race.
type raceConn struct {
	net.Conn
	closed bool
}

func (c *raceConn) Close() error {
	c.closed = true
	return nil
}

// TestRaceClosesTheLosers has connections come about after the race is won.
func TestRaceClosesTheLosers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conns := map[netip.Addr]*raceConn{a4: {}, a6: {}, b4: {}}
		c, err := raceDials(t.Context(), []netip.Addr{a4, a6, b4}, func(ctx context.Context, addr netip.Addr) (net.Conn, error) {
			if addr != b4 {
				<-ctx.Done()
			}
			return conns[addr], nil
		})
		if err != nil || c != conns[b4] {
			t.Fatalf("won: %v, %v", c, err)
		}
		for addr, c := range conns {
			if c.closed != (addr != b4) {
				t.Errorf("connection to %v closed: %v", addr, c.closed)
			}
		}
	})
}
