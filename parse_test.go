package wireguard

import (
	"errors"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

const (
	textPrivate = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk="
	textAlice   = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
	textBob     = "TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0="
	textPSK     = "/UwcSPg38hW/D9Y3tcS1FOV0K1wuURMbS0sesJEP5ak="
	textZero    = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
)

func publicKey(t testing.TB, s string) PublicKey {
	t.Helper()
	k, err := ParsePublicKey(s)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func presharedKey(t testing.TB, s string) PresharedKey {
	t.Helper()
	k, err := ParsePresharedKey(s)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func addrs(ss ...string) (as []netip.Addr) {
	for _, s := range ss {
		as = append(as, netip.MustParseAddr(s))
	}
	return as
}

// Covers C13, C15.
func TestParseConfigFiles(t *testing.T) {
	for name, want := range map[string]Config{
		"client.conf": {
			PrivateKey: mustPrivateKey(t, textPrivate),
			Address:    prefixes("10.200.100.8/24", "fd00:200::8/64"),
			DNS:        addrs("10.200.100.1", "fd00:200::1"),
			DNSSearch:  []string{"corp.example"},
			MTU:        1380,
			Peers: []PeerConfig{{
				PublicKey:           publicKey(t, textAlice),
				PresharedKey:        presharedKey(t, textPSK),
				AllowedIPs:          prefixes("0.0.0.0/0", "::/0"),
				Endpoint:            "demo.example.com:51820",
				PersistentKeepalive: 25 * time.Second,
			}},
		},
		"server.conf": {
			PrivateKey: mustPrivateKey(t, "oK56DE9Ue9zK76rAc8pBl6opph+1v36lm7cXXsQKrQM="),
			ListenPort: 51820,
			FwMark:     0xca6c,
			Address:    prefixes("10.192.122.1/24", "10.10.0.1/16"),
			SaveConfig: true,
			Table:      "off",
			PostUp:     []string{"iptables -A FORWARD -i %i -j ACCEPT; echo up # stays", "sysctl -w net.ipv4.ip_forward=1"},
			PreDown:    []string{"iptables -D FORWARD -i %i -j ACCEPT"},
			Peers: []PeerConfig{{
				PublicKey:  publicKey(t, textAlice),
				AllowedIPs: prefixes("10.192.122.3/32", "10.192.124.0/24"),
			}, {
				PublicKey:  publicKey(t, textBob),
				Endpoint:   "[2607:5300:60:6b0::c05f:543]:2468",
				AllowedIPs: prefixes("10.192.122.4/32", "192.168.0.0/16"),
			}},
		},
	} {
		f, err := os.Open(filepath.Join("testdata", "config", name))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if got, err := ParseConfig(f); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\n%+v, %v, want\n%+v", name, got, err, want)
		}
	}
}

// Covers C12, C13, C15.
func TestParseConfig(t *testing.T) {
	alice := func(p PeerConfig) Config {
		p.PublicKey = publicKey(t, textAlice)
		return Config{Peers: []PeerConfig{p}}
	}
	const peer = "[Peer]\nPublicKey=" + textAlice + "\n"
	for _, c := range []struct {
		name, in string
		want     Config
	}{
		{"comments", "# a\n  # b\n\n\t\n#[Peer]", Config{}},
		{"blank values of wg-quick's keys", "[Interface]\nAddress =\nDNS=\nMTU = # none\nTable =\nPreUp =\nPostUp = \nPreDown =\nPostDown =\n", Config{}},
		{"NUL at the end of lines", "[Interface]\x00\nListenPort = 1\x00\r\nPostUp = a\x00\x00 \n\x00", Config{ListenPort: 1, PostUp: []string{"a"}}},
		{"a service and a short address", peer + "Endpoint = 127.1:domain", alice(PeerConfig{Endpoint: "127.0.0.1:53"})},
		{"empty sections", "[Interface]\n[Interface]", Config{}},
		{"case", "[iNTERFACE]\nlistenport=1\nMtU=1400\n[pEER]\nPUBLICKEY=" + textAlice,
			Config{ListenPort: 1, MTU: 1400, Peers: alice(PeerConfig{}).Peers}},
		{"line ends", "[Interface]\r\nListenPort = 1\r\nAddress = 10.0.0.1\r\nPostUp = a\r\nTable = auto \r\n",
			Config{ListenPort: 1, Address: prefixes("10.0.0.1/32"), PostUp: []string{"a"}, Table: "auto"}},
		{"spaces of wg", "\v[ Inter face ]\f\n L i s t e n Port\t=\t5 1 8 2 0 \n", Config{ListenPort: 51820}},
		{"comments after values", "[Interface]#x\nListenPort=1#2\nTable=off # on\nDNS=1.1.1.1#,2.2.2.2", Config{ListenPort: 1, Table: "off", DNS: addrs("1.1.1.1")}},
		{"last counts", "[Interface]\nListenPort=1\nListenPort=2\nMTU=1400\nMTU=1300\nTable=1\nTable=2\nSaveConfig=true\nSaveConfig=false",
			Config{ListenPort: 2, MTU: 1300, Table: "2"}},
		{"sections repeat", "[Interface]\nListenPort=1\n" + peer + "[Interface]\nFwMark=2", Config{ListenPort: 1, FwMark: 2, Peers: alice(PeerConfig{}).Peers}},

		{"ListenPort 65535", "[Interface]\nListenPort=65535", Config{ListenPort: 65535}},
		{"FwMark off", "[Interface]\nFwMark=1\nFwMark=OFF", Config{}},
		{"FwMark 0", "[Interface]\nFwMark=1\nFwMark=0", Config{}},
		{"FwMark decimal", "[Interface]\nFwMark=4294967295", Config{FwMark: 1<<32 - 1}},
		{"FwMark leading zero", "[Interface]\nFwMark=010", Config{FwMark: 10}},
		{"FwMark hexadecimal", "[Interface]\nFwMark=0xFFFFffff", Config{FwMark: 1<<32 - 1}},
		{"no private key", "[Interface]\nPrivateKey=" + textZero, Config{}},
		{"MTU 0", "[Interface]\nMTU=0", Config{}},

		{"Address", "[Interface]\nAddress=10.0.0.1/8,fd00::1/64 10.0.0.2 ,\nAddress=fd00::2,::ffff:10.0.0.3/120",
			Config{Address: prefixes("10.0.0.1/8", "fd00::1/64", "10.0.0.2/32", "fd00::2/128", "10.0.0.3/24")}},
		{"DNS", "[Interface]\nDNS=1.1.1.1,a.example b.example\nDNS=fd00::53, 9.9.9.9",
			Config{DNS: addrs("1.1.1.1", "fd00::53", "9.9.9.9"), DNSSearch: []string{"a.example", "b.example"}}},
		{"hooks", "[Interface]\nPreUp = a = b # c\npostup=2\nPREDOWN=3\nPostDown=4\nPreUp=\"5\"\nPostDown=#6",
			Config{PreUp: []string{"a = b # c", `"5"`}, PostUp: []string{"2"}, PreDown: []string{"3"}, PostDown: []string{"4", "#6"}}},

		{"key after other keys", "[Peer]\nPersistentKeepalive=1\nPublicKey=" + textAlice, alice(PeerConfig{PersistentKeepalive: time.Second})},
		{"AllowedIPs", peer + "AllowedIPs = 10.0.0.1/8, 10.0.0.1 , fd00::1/064\nAllowedIPs=::ffff:10.0.0.1/120,fd00::1",
			alice(PeerConfig{AllowedIPs: prefixes("10.0.0.0/8", "10.0.0.1/32", "fd00::/64", "10.0.0.0/24", "fd00::1/128")})},
		{"AllowedIPs twice", peer + "AllowedIPs = 10.0.0.0/8, 10.1.1.1/8", alice(PeerConfig{AllowedIPs: prefixes("10.0.0.0/8")})},
		{"AllowedIPs changes", peer + "AllowedIPs = 10.0.0.0/8, +10.1.0.0/16, -10.0.0.0/8, -10.2.0.0/16", alice(PeerConfig{AllowedIPs: prefixes("10.1.0.0/16")})},
		{"AllowedIPs removed and added", peer + "AllowedIPs = 10.0.0.0/8, -10.0.0.0/8, 10.0.0.0/8", alice(PeerConfig{AllowedIPs: prefixes("10.0.0.0/8")})},
		{"Endpoint", peer + "Endpoint = fe80::1 % eth0:80", alice(PeerConfig{Endpoint: "[fe80::1%eth0]:80"})},
		{"keepalive off", peer + "PersistentKeepalive=1\nPersistentKeepalive=Off", alice(PeerConfig{})},
		{"keepalive 65535", peer + "PersistentKeepalive=65535", alice(PeerConfig{PersistentKeepalive: 65535 * time.Second})},

		{"a peer twice: the later replaces what it names",
			peer + "Endpoint=a:1\nPresharedKey=" + textPSK + "\nPersistentKeepalive=1\nAllowedIPs=10.0.0.0/8\n" + peer + "Endpoint=b:2\nAllowedIPs=10.1.0.0/16",
			alice(PeerConfig{Endpoint: "b:2", PresharedKey: presharedKey(t, textPSK), PersistentKeepalive: time.Second, AllowedIPs: prefixes("10.1.0.0/16")})},
		{"a peer twice: always AllowedIPs",
			peer + "AllowedIPs=10.0.0.0/8\nPersistentKeepalive=1\nPresharedKey=" + textPSK + "\n" + peer + "PersistentKeepalive=0\nPresharedKey=" + textZero,
			alice(PeerConfig{})},
		{"a peer twice: unless they are changes",
			peer + "AllowedIPs=10.0.0.0/8,10.1.0.0/16\n" + peer + "AllowedIPs=+10.2.0.0/16,-10.0.0.0/8",
			alice(PeerConfig{AllowedIPs: prefixes("10.1.0.0/16", "10.2.0.0/16")})},
		{"a peer twice: as the last line has it",
			peer + "AllowedIPs=10.0.0.0/8\n" + peer + "AllowedIPs=+10.1.0.0/16\nAllowedIPs=10.2.0.0/16",
			alice(PeerConfig{AllowedIPs: prefixes("10.1.0.0/16", "10.2.0.0/16")})},
		{"a prefix belongs to the last to name it",
			peer + "AllowedIPs=10.0.0.0/8,10.1.0.0/16\n[Peer]\nPublicKey=" + textBob + "\nAllowedIPs=10.0.0.0/8,10.2.0.0/16\n" + peer + "AllowedIPs=+10.2.0.0/16,-10.0.0.0/8",
			Config{Peers: []PeerConfig{
				{PublicKey: publicKey(t, textAlice), AllowedIPs: prefixes("10.1.0.0/16", "10.2.0.0/16")},
				{PublicKey: publicKey(t, textBob), AllowedIPs: prefixes("10.0.0.0/8")},
			}}},
	} {
		got, err := ParseConfig(strings.NewReader(c.in))
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		for i := range got.Peers {
			if len(got.Peers[i].AllowedIPs) == 0 {
				got.Peers[i].AllowedIPs = nil
			}
		}
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s:\n%+v, want\n%+v", c.name, got, c.want)
		}
		if _, err := got.canonical(); err != nil {
			t.Errorf("%s: parsed, but %v", c.name, err)
		}
	}
}

// Covers C12, C13, C14.
func TestParseConfigErrors(t *testing.T) {
	const (
		intf = "[Interface]\n"
		peer = "[Peer]\nPublicKey=" + textAlice + "\n"
	)
	for _, c := range []struct{ in, want string }{
		{"ListenPort = 1", "line 1: ListenPort: outside of [Interface] and [Peer]"},
		{"\n\nfoo", "line 3: foo: outside of [Interface] and [Peer]"},
		{"", "line 1: the file is empty"},
		{"\x00", "line 1: the file is empty"},
		{intf + "ListenPort = 1\x00 2", `line 2: [Interface] ListenPort: "1\x002": not 0 to 65535`},
		{" \n\t\r\n", "line 1: the file is empty"},
		{"\ufeff[Interface]", "line 1: file begins with a byte order mark: save it as UTF-8 without one"},
		{"\xff\xfe[\x00I\x00", "line 1: file is UTF-16: save it as UTF-8"},
		{"\xfe\xff\x00[\x00I", "line 1: file is UTF-16: save it as UTF-8"},
		{"[\x00I\x00n\x00", "line 1: file is UTF-16: save it as UTF-8"},
		{"\x00[\x00I\x00", "line 1: file is UTF-16: save it as UTF-8"},
		{"[Foo]", "line 1: unknown section [Foo]"},
		{intf + "[Peer", "line 2: unknown section [Peer]"},
		{intf + "ListenPort = 1\n[Foo]", "line 3: unknown section [Foo]"},
		{"[Interface] x = y", "line 1: unknown section"},
		{intf + "Foo = 1", "line 2: [Interface] Foo: unknown key"},
		{intf + "PublicKey = " + textAlice, "line 2: [Interface] PublicKey: unknown key"},
		{intf + "Post Up = a", "line 2: [Interface] unknown key"},
		{intf + "= a", "line 2: [Interface] unknown key"},
		{peer + "Address = 10.0.0.1", "line 3: [Peer] Address: unknown key"},
		{peer + "PostUp = a", "line 3: [Peer] PostUp: unknown key"},
		{intf + "ListenPort", "line 2: [Interface] ListenPort: not of the form key = value"},
		{intf + "listenport:1", "line 2: [Interface] not of the form key = value"},
		{intf + "listenport =", "line 2: [Interface] ListenPort: no value"},
		{intf + "ListenPort = # 1", "line 2: [Interface] ListenPort: no value"},
		{intf + "SaveConfig = ", "line 2: [Interface] SaveConfig: no value"},
		{intf + "PostUp # = a", "line 2: [Interface] PostUp: not of the form key = value"},
		{peer + "AllowedIPs = ", "line 3: [Peer] AllowedIPs: no value"},
		{peer + "Endpoint =", "line 3: [Peer] Endpoint: no value"},

		{intf + "PrivateKey = " + textPrivate[1:], "line 2: [Interface] PrivateKey: not 44 characters of canonical base64"},
		{intf + "PrivateKey = " + textPrivate + "=", "line 2: [Interface] PrivateKey: not 44 characters of canonical base64"},
		{intf + "ListenPort = 65536", `line 2: [Interface] ListenPort: "65536": not 0 to 65535`},
		{intf + "ListenPort = -1", `line 2: [Interface] ListenPort: "-1": not 0 to 65535`},
		{intf + "FwMark = 4294967296", `line 2: [Interface] FwMark: "4294967296": neither off nor 0 to 0xffffffff`},
		{intf + "FwMark = 0x100000000", `line 2: [Interface] FwMark: "0x100000000": neither off nor 0 to 0xffffffff`},
		{intf + "FwMark = 0x", `line 2: [Interface] FwMark: "0x": neither off nor 0 to 0xffffffff`},
		{intf + "FwMark = 0X1", `line 2: [Interface] FwMark: "0X1": neither off nor 0 to 0xffffffff`},
		{intf + "FwMark = ff", `line 2: [Interface] FwMark: "ff": neither off nor 0 to 0xffffffff`},
		{intf + "FwMark = 1_0", `line 2: [Interface] FwMark: "1_0": neither off nor 0 to 0xffffffff`},
		{intf + "Address = 10.0.0.1, 10.0.0.2/33", `line 2: [Interface] Address: "10.0.0.2/33": mask is not 0 to 32`},
		{intf + "Address = 0.0.0.0/0", `line 2: [Interface] Address: "0.0.0.0/0": not a unicast address`},
		{intf + "Address = fe80::1%eth0/64", `line 2: [Interface] Address: "fe80::1%eth0/64": not a valid address`},
		{intf + "DNS = 10.0.0.256", `line 2: [Interface] DNS: "10.0.0.256": not a valid address`},
		{intf + "DNS = [fd00::1]:53", `line 2: [Interface] DNS: "[fd00::1]:53": not a valid address`},
		{intf + "DNS = a/b", `line 2: [Interface] DNS: "a/b": not a valid name`},
		{intf + "MTU = 100", `line 2: [Interface] MTU: "100": not 576 to 65455`},
		{intf + "MTU = 65456", `line 2: [Interface] MTU: "65456": not 576 to 65455`},
		{intf + "MTU = auto", `line 2: [Interface] MTU: "auto": not a number`},
		{intf + "SaveConfig = yes", `line 2: [Interface] SaveConfig: "yes": neither true nor false`},

		{intf + "[Peer]\n\n" + peer, "line 2: [Peer] PublicKey: missing"},
		{peer + "[Peer]", "line 3: [Peer] PublicKey: missing"},
		{"[Peer]\nPublicKey = x", "line 2: [Peer] PublicKey: not 44 characters of canonical base64"},
		{peer + "PresharedKey = " + textPSK[:42] + "l=", "line 3: [Peer] PresharedKey: not 44 characters of canonical base64"},
		{peer + "AllowedIPs = 10.0.0.0/33", `line 3: [Peer] AllowedIPs: "10.0.0.0/33": mask is not 0 to 32`},
		{peer + "AllowedIPs = fd00::/129", `line 3: [Peer] AllowedIPs: "fd00::/129": mask is not 0 to 128`},
		{peer + "AllowedIPs = fd00::/99999999999999999999", `line 3: [Peer] AllowedIPs: "fd00::/99999999999999999999": mask is not 0 to 128`},
		{peer + "AllowedIPs = 10.0.0.0/", `line 3: [Peer] AllowedIPs: "10.0.0.0/": mask is not 0 to 32`},
		{peer + "AllowedIPs = 10.0.0.0/8/8", `line 3: [Peer] AllowedIPs: "10.0.0.0/8/8": mask is not 0 to 32`},
		{peer + "AllowedIPs = 10.0.0.0/+8", `line 3: [Peer] AllowedIPs: "10.0.0.0/+8": mask is not 0 to 32`},
		{peer + "AllowedIPs = 10.0.0.0/8,", `line 3: [Peer] AllowedIPs: "": not a valid address`},
		{peer + "AllowedIPs = 10.0.0.0/8 10.0.0.1", `line 3: [Peer] AllowedIPs: "10.0.0.0/810.0.0.1": mask is not 0 to 32`},
		{peer + "AllowedIPs = 10.0.0/8", `line 3: [Peer] AllowedIPs: "10.0.0/8": not a valid address`},
		{peer + "AllowedIPs = 010.0.0.0/8", `line 3: [Peer] AllowedIPs: "010.0.0.0/8": not a valid address`},
		{peer + "AllowedIPs = fe80::1%eth0", `line 3: [Peer] AllowedIPs: "fe80::1%eth0": not a valid address`},
		{peer + "AllowedIPs = +-10.0.0.0/8", `line 3: [Peer] AllowedIPs: "+-10.0.0.0/8": not a valid address`},
		{peer + "AllowedIPs = -", `line 3: [Peer] AllowedIPs: "-": not a valid address`},
		{peer + "Endpoint = a", `line 3: [Peer] Endpoint: "a": no port`},
		{peer + "Endpoint = a:0", `line 3: [Peer] Endpoint: "a:0": port is neither 1 to 65535 nor the name of a UDP service`},
		{peer + "PersistentKeepalive = 65536", `line 3: [Peer] PersistentKeepalive: "65536": neither off nor 0 to 65535`},
		{peer + "PersistentKeepalive = 25s", `line 3: [Peer] PersistentKeepalive: "25s": neither off nor 0 to 65535`},
		{peer + "Endpoint = " + strings.Repeat("x", 100), `line 3: [Peer] Endpoint: "` + strings.Repeat("x", 64) + `…": no port`},
	} {
		_, err := ParseConfig(strings.NewReader(c.in))
		if err == nil {
			t.Errorf("%q: no error, want %q", c.in, c.want)
			continue
		}
		if got, want := err.Error(), "wireguard: "+c.want; got != want {
			t.Errorf("%q: error\n%s, want\n%s", c.in, got, want)
		}
		if pe, ok := errors.AsType[*ParseError](err); !ok || pe.Line == 0 || pe.Unwrap() == nil {
			t.Errorf("%q: error %#v, want a ParseError", c.in, err)
		}
	}
}

// An error about a line with a secret key must not contain the key.
//
// Covers P100.
func TestParseConfigErrorsHideSecrets(t *testing.T) {
	for _, secret := range []string{textPrivate, textAlice} { // textAlice has only letters and digits
		for _, format := range []string{
			"KEY",
			"PrivateKey = KEY",
			"[Interface]\nKEY",
			"[Interface]\nPrivateKey: KEY",
			"[Interface]\nPrivateKey KEY",
			"[Interface]\nPrivateKeyKEY",
			"[Interface]\nPrivateKey = KEYKEY",
			"[Interface]\nPrivateKey = xKEY",
			"[Interface]\nPrivateKey = \"KEY\"",
			"[Interface]\nPrivateKey = KEY,",
			"[Interface]\n[KEY]",
			"[Interface]\nPrivKey = KEY",
			"[Interface]\nKEY = PrivateKey",
			"[Peer]\nPresharedKey = KEY=",
			"[Peer]\nPrivateKey = KEY",
			"[Peer]\nPublicKey = KEY=",
		} {
			_, err := ParseConfig(strings.NewReader(strings.ReplaceAll(format, "KEY", secret)))
			if err == nil {
				t.Errorf("%q: no error", format)
			} else if strings.Contains(err.Error(), secret[2:10]) {
				t.Errorf("%q: the error shows the key: %v", format, err)
			}
		}
	}
}

func TestParseConfigReadError(t *testing.T) {
	broken := errors.New("broken")
	_, err := ParseConfig(io.MultiReader(strings.NewReader("[Interface]\n"), iotest.ErrReader(broken)))
	if !errors.Is(err, broken) || errors.As(err, new(*ParseError)) {
		t.Errorf("error %v, want %v", err, broken)
	}
}

// A line may be longer than the reader's buffer.
func TestParseConfigLongLine(t *testing.T) {
	const n = 130_560
	var b strings.Builder
	b.WriteString("[Peer]\nPublicKey=" + textAlice + "\nAllowedIPs=0.0.0.0/0")
	for i := 1; i < n; i++ {
		a := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		b.WriteString(", " + a.String() + "/32")
	}
	cfg, err := ParseConfig(strings.NewReader(b.String()))
	if err != nil {
		t.Fatal(err)
	}
	if got := len(cfg.Peers[0].AllowedIPs); got != n {
		t.Errorf("%d allowed IPs, want %d", got, n)
	}
}

// Every input yields a configuration or an error, and the canonical form loses
// nothing.
func FuzzParseConfig(f *testing.F) {
	files, err := filepath.Glob(filepath.Join("testdata", "config", "*.conf"))
	if err != nil || len(files) == 0 {
		f.Fatalf("no files to start from: %v", err)
	}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(b))
	}
	f.Add("[Interface]\nFwMark=0x1\nMTU=1279\nAddress=fd00::1\n")
	f.Add("[Peer]\nPublicKey=" + textAlice + "\nAllowedIPs=+10.0.0.0/8,-::/0\nEndpoint=fe80::1%a:1\n[Peer]\nPublicKey=" + textAlice)
	f.Fuzz(func(t *testing.T, in string) {
		cfg, err := ParseConfig(strings.NewReader(in))
		if err != nil {
			pe, ok := errors.AsType[*ParseError](err)
			if !ok || pe.Line < 1 || pe.Line > strings.Count(in, "\n")+1 || pe.Err == nil {
				t.Fatalf("%q: %#v", in, err)
			}
			return
		}
		d, err := cfg.canonical()
		if err != nil {
			if !strings.HasPrefix(err.Error(), "wireguard: ") {
				t.Fatalf("%q: error %q", in, err)
			}
			return
		}
		if len(d.Peers) != len(cfg.Peers) {
			t.Fatalf("%q: %d peers, then %d", in, len(cfg.Peers), len(d.Peers))
		}
		for i, p := range cfg.Peers {
			if q := d.Peers[i]; q.Endpoint != p.Endpoint || !slices.Equal(q.AllowedIPs, p.AllowedIPs) {
				t.Fatalf("%q: peer\n%+v, then\n%+v", in, p, q)
			}
		}
		if e, err := d.canonical(); err != nil || !reflect.DeepEqual(e, d) {
			t.Fatalf("%q: canonical form\n%+v, then\n%+v, %v", in, d, e, err)
		}
	})
}
