package wireguard

import (
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestCanonicalConfig(t *testing.T) {
	key := PublicKey{1}
	cfg := Config{
		PrivateKey: PrivateKey{0: 0xff, 31: 0xff},
		Address:    prefixes("10.0.0.1/24", "::ffff:10.0.0.2/120", "fd00::1/64", "10.0.0.1/24"),
		DNS:        []netip.Addr{netip.MustParseAddr("::ffff:10.0.0.53")},
		DNSSearch:  []string{"corp.example"},
		PostUp:     []string{"true"},
		Peers: []PeerConfig{{
			PublicKey:           key,
			Endpoint:            "2001:db8::1:51820",
			AllowedIPs:          prefixes("10.1.2.3/8", "::ffff:10.1.2.3/120", "fd00::1/64", "::ffff:1.2.3.4/80"),
			PersistentKeepalive: 65535 * time.Second,
		}},
	}
	got, err := cfg.canonical()
	if err != nil {
		t.Fatal(err)
	}
	want := Config{
		PrivateKey: PrivateKey{0: 0xf8, 31: 0x7f},
		Address:    prefixes("10.0.0.1/24", "10.0.0.2/24", "fd00::1/64"),
		DNS:        []netip.Addr{netip.MustParseAddr("10.0.0.53")},
		DNSSearch:  []string{"corp.example"},
		MTU:        1420,
		PostUp:     []string{"true"},
		Peers: []PeerConfig{{
			PublicKey:           key,
			Endpoint:            "[2001:db8::1]:51820",
			AllowedIPs:          prefixes("10.0.0.0/8", "10.1.2.0/24", "fd00::/64", "::/80"),
			PersistentKeepalive: 65535 * time.Second,
		}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("canonical form\n%+v, want\n%+v", got, want)
	}

	// The copy shares nothing with the original.
	cfg.Address[0], cfg.DNS[0], cfg.DNSSearch[0], cfg.PostUp[0] = netip.Prefix{}, netip.Addr{}, "", ""
	cfg.Peers[0].AllowedIPs[0] = netip.Prefix{}
	cfg.Peers[0].Endpoint = ""
	if !reflect.DeepEqual(got, want) {
		t.Error("the copy changed with the original")
	}

	// The canonical form of a canonical form is itself.
	if again, err := got.canonical(); err != nil || !reflect.DeepEqual(again, want) {
		t.Errorf("canonical form of the canonical form\n%+v, %v", again, err)
	}

	var zero Config
	if got, err := zero.canonical(); err != nil || !reflect.DeepEqual(got, Config{MTU: 1420}) {
		t.Errorf("canonical form of the zero Config\n%+v, %v", got, err)
	}
}

// Covers M03.
func TestCanonicalConfigErrors(t *testing.T) {
	key, other := PublicKey{1}, PublicKey{2}
	for _, c := range []struct {
		name   string
		change func(*Config, *PeerConfig)
		want   string // empty: no error
	}{
		{"nothing", func(*Config, *PeerConfig) {}, ""},
		{"invalid address", func(c *Config, _ *PeerConfig) { c.Address = []netip.Prefix{{}} }, "wireguard: address invalid Prefix: not a valid prefix"},
		{"unspecified address", func(c *Config, _ *PeerConfig) { c.Address = prefixes("0.0.0.0/0") }, "wireguard: address 0.0.0.0/0: not a unicast address"},
		{"multicast address", func(c *Config, _ *PeerConfig) { c.Address = prefixes("ff02::1/64") }, "wireguard: address ff02::1/64: not a unicast address"},
		{"loopback address", func(c *Config, _ *PeerConfig) { c.Address = prefixes("127.0.0.1/8") }, "wireguard: address 127.0.0.1/8: a loopback address"},
		{"mapped address", func(c *Config, _ *PeerConfig) { c.Address = prefixes("::ffff:10.0.0.1/64") }, "wireguard: address ::ffff:10.0.0.1/64: IPv4-mapped, with a mask shorter than 96 bits"},
		{"invalid server", func(c *Config, _ *PeerConfig) { c.DNS = []netip.Addr{{}} }, "wireguard: DNS server invalid IP: not a valid address"},
		{"server with zone", func(c *Config, _ *PeerConfig) { c.DNS = []netip.Addr{netip.MustParseAddr("fe80::1%eth0")} }, "wireguard: DNS server fe80::1%eth0: an address in the tunnel has no zone"},
		{"unspecified server", func(c *Config, _ *PeerConfig) { c.DNS = []netip.Addr{netip.IPv6Unspecified()} }, "wireguard: DNS server ::: not a unicast address"},
		{"search domain", func(c *Config, _ *PeerConfig) { c.DNSSearch = []string{"a b"} }, `wireguard: DNS search domain "a b": not a valid name`},
		{"MTU 575", func(c *Config, _ *PeerConfig) { c.MTU = 575 }, "wireguard: MTU 575: not 576 to 65455"},
		{"MTU -1", func(c *Config, _ *PeerConfig) { c.MTU = -1 }, "wireguard: MTU -1: not 576 to 65455"},
		{"MTU 65456", func(c *Config, _ *PeerConfig) { c.MTU = 65456 }, "wireguard: MTU 65456: not 576 to 65455"},
		{"MTU 576", func(c *Config, _ *PeerConfig) { c.MTU = 576; c.Address = prefixes("10.0.0.1/8") }, ""},
		{"MTU 34736", func(c *Config, _ *PeerConfig) { c.MTU = 34736; c.Address = prefixes("fd00::1/8") }, ""},
		{"MTU 65455", func(c *Config, _ *PeerConfig) { c.MTU = 65455 }, ""},
		{"MTU 1279 with IPv6", func(c *Config, _ *PeerConfig) { c.MTU = 1279; c.Address = prefixes("fd00::1/8") }, "wireguard: MTU 1279: IPv6 needs at least 1280"},
		{"MTU 1280 with IPv6", func(c *Config, _ *PeerConfig) { c.MTU = 1280; c.Address = prefixes("fd00::1/8") }, ""},

		{"two peers", func(c *Config, _ *PeerConfig) { c.Peers = append(c.Peers, PeerConfig{PublicKey: other}) }, ""},
		{"peer twice", func(c *Config, _ *PeerConfig) { c.Peers = append(c.Peers, PeerConfig{PublicKey: key}) }, "wireguard: peer AQAA…AAAA: configured twice"},
		{"no key", func(_ *Config, p *PeerConfig) { p.PublicKey = PublicKey{} }, "wireguard: peer without public key"},
		{"allowed IP", func(_ *Config, p *PeerConfig) {
			p.AllowedIPs = []netip.Prefix{netip.PrefixFrom(netip.MustParseAddr("10.0.0.0"), 33)}
		}, "wireguard: peer AQAA…AAAA: allowed IP invalid Prefix: not a valid prefix"},
		{"keepalive -1s", func(_ *Config, p *PeerConfig) { p.PersistentKeepalive = -time.Second }, "wireguard: peer AQAA…AAAA: persistent keepalive -1s: not 0 to 65535 s"},
		{"keepalive 65536s", func(_ *Config, p *PeerConfig) { p.PersistentKeepalive = 65536 * time.Second }, "wireguard: peer AQAA…AAAA: persistent keepalive 18h12m16s: not 0 to 65535 s"},
		{"keepalive 25ns", func(_ *Config, p *PeerConfig) { p.PersistentKeepalive = 25 }, "wireguard: peer AQAA…AAAA: persistent keepalive 25ns: not whole seconds"},
		{"endpoint", func(_ *Config, p *PeerConfig) { p.Endpoint = "nowhere" }, `wireguard: peer AQAA…AAAA: endpoint "nowhere": no port`},
	} {
		cfg := Config{Peers: []PeerConfig{{PublicKey: key}}}
		c.change(&cfg, &cfg.Peers[0])
		got := ""
		if _, err := cfg.canonical(); err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%s: error %q, want %q", c.name, got, c.want)
		}
	}
}

// Covers C13.
func TestCanonicalEndpoint(t *testing.T) {
	const (
		noPort  = "no port"
		badPort = "port is not 1 to 65535"
		badHost = "host is neither an address nor a valid name"
	)
	for _, c := range []struct{ in, want, err string }{
		{in: "192.0.2.1:51820", want: "192.0.2.1:51820"},
		{in: "192.0.2.1:1", want: "192.0.2.1:1"},
		{in: "192.0.2.1:65535", want: "192.0.2.1:65535"},
		{in: "192.0.2.1:00080", want: "192.0.2.1:80"},
		{in: "[192.0.2.1]:80", want: "192.0.2.1:80"},
		{in: "[2001:DB8::1]:80", want: "[2001:db8::1]:80"},
		{in: "2001:db8::1:80", want: "[2001:db8::1]:80"},
		{in: "[::ffff:192.0.2.1]:80", want: "192.0.2.1:80"},
		{in: "[fe80::1%eth0]:80", want: "[fe80::1%eth0]:80"},
		{in: "vpn.example.com:80", want: "vpn.example.com:80"},
		{in: "Vpn_1.example.com.:80", want: "Vpn_1.example.com.:80"},
		{in: "1and1.com:80", want: "1and1.com:80"},
		{in: "localhost:80", want: "localhost:80"},
		{in: "", err: noPort},
		{in: "vpn.example.com", err: noPort},
		{in: "[2001:db8::1]", err: noPort},
		{in: "[2001:db8::1]80", err: noPort},
		{in: "[2001:db8::1:80", err: "no closing bracket"},
		{in: "2001:db8::1", err: badHost},
		{in: "::1", err: badHost},
		{in: "192.0.2.1:", err: badPort},
		{in: "192.0.2.1:0", err: badPort},
		{in: "192.0.2.1:65536", err: badPort},
		{in: "192.0.2.1:-1", err: badPort},
		{in: "192.0.2.1:+1", err: badPort},
		{in: "192.0.2.1:http", err: badPort},
		{in: ":80", err: badHost},
		{in: "[]:80", err: badHost},
		{in: "192.0.2.256:80", err: badHost},
		{in: "192.0.2:80", err: badHost},
		{in: "a..b:80", err: badHost},
		{in: ".:80", err: badHost},
		{in: "a b:80", err: badHost},
		{in: "http://a:80", err: badHost},
		{in: "a]:80", err: badHost},
		{in: strings.Repeat("a", 64) + ":80", err: badHost},
		{in: strings.Repeat("a.", 127) + "a:80", err: badHost},
	} {
		got, err := canonicalEndpoint(c.in)
		msg := ""
		if err != nil {
			msg = err.Error()
		}
		if got != c.want || msg != c.err {
			t.Errorf("%q: %q, error %q, want %q, %q", c.in, got, msg, c.want, c.err)
		}
	}
}

// A new field must be added here, after checking that canonical copies it.
func TestCanonicalConfigKnowsAllFields(t *testing.T) {
	var got []string
	for _, typ := range []reflect.Type{reflect.TypeFor[Config](), reflect.TypeFor[PeerConfig]()} {
		for i := range typ.NumField() {
			switch typ.Field(i).Type.Kind() {
			case reflect.Slice, reflect.Map, reflect.Pointer, reflect.Func, reflect.Interface:
				got = append(got, typ.Field(i).Name)
			}
		}
	}
	want := []string{"Address", "DNS", "DNSSearch", "PreUp", "PostUp", "PreDown", "PostDown", "Peers", "PeerFor", "ListenPacket", "Logger", "AllowedIPs"}
	if !slices.Equal(got, want) {
		t.Errorf("fields that can be shared: %v, want %v", got, want)
	}
}
