package netstack

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// A nameServer answers questions on port 53 of a stack.
type nameServer struct {
	mu      sync.Mutex
	records map[string][]dnsmessage.ResourceBody // guarded by mu: by name with its dot, lower case
	code    map[string]dnsmessage.RCode
	asked   []string // guarded by mu: "A name tcp"

	truncateTCP bool // sets the TC bit of answers by TCP

	// intercept, if not nil, sends whatever else it wants before the answer, and
	// reports whether to send that.
	intercept func(q dnsmessage.Message, send func([]byte)) bool
}

func (n *nameServer) serve(t testing.TB, s *Stack) { n.serveAt(t, s, ":53") }

func (n *nameServer) serveAt(t testing.TB, s *Stack, address string) {
	pc := listenPacket(t, s, "udp", address)
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
	l := listen(t, s, "tcp", address)
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
	r.Truncated = n.truncateTCP && transport == "tcp"
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
		if typeOf(body) == typ {
			r.Answers = append(r.Answers, dnsmessage.Resource{Header: h, Body: body})
		}
	}
}

func typeOf(body dnsmessage.ResourceBody) dnsmessage.Type {
	switch body.(type) {
	case *dnsmessage.AResource:
		return dnsmessage.TypeA
	case *dnsmessage.AAAAResource:
		return dnsmessage.TypeAAAA
	case *dnsmessage.SRVResource:
		return dnsmessage.TypeSRV
	case *dnsmessage.MXResource:
		return dnsmessage.TypeMX
	case *dnsmessage.TXTResource:
		return dnsmessage.TypeTXT
	}
	return 0
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
