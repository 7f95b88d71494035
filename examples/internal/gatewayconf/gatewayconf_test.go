package gatewayconf

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

const (
	private = "LAr1aNSNF9d0MjwUgAVC4020T0N/E5NUtqVv5EnsSz0="
	public  = "e8LKAc+f9xEzq9Ar7+MfKRrs+gZ/4yzvpRJLRJ/VJ1w="
	tunnel  = "[Interface]\nPrivateKey = " + private + "\nAddress = 10.200.200.2/32\n[Peer]\nPublicKey = " + public + "\n"
)

func load(t *testing.T, text string) (Config, string, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "gateway.conf")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := Load(path)
	return cfg, path, err
}

// TestWireproxyFile reads a file with all sections.
func TestWireproxyFile(t *testing.T) {
	t.Setenv("GATEWAY_TEST_PASSWORD", "secret")
	cfg, path, err := load(t, strings.Replace(tunnel, "Address", "dns = 10.200.200.1\nDNS = 10.200.200.3\nMTU=1400\nCheckAlive = 10.0.0.1, fd00::1\nCheckAliveInterval = 7\nTable = off\nAddress = fd00::2\nAddress", 1)+`
PersistentKeepalive = 25
Endpoint = vpn.example:51820 ; where

[Socks5]
BindAddress = 127.0.0.1:25344
Username = me
Password = $GATEWAY_TEST_PASSWORD
TunnelDomains = ^a\.example$
TunnelDomains = b,c
[http]
BindAddress = localhost:http
Colour = blue
[TCPClientTunnel]
Target = play.example:25565
[TCPServerTunnel]
ListenPort = 3422
Target = localhost:25545
[UDPProxyTunnel]
BindAddress = 127.0.0.1:1053
Target = 10.0.0.1:53
InactivityTimeout = 30
[UDPServerTunnel]
ListenPort = 5353
Target = localhost:53
[STDIOTunnel]
Target = ssh.example:22
[SNI]
BindAddress = :443
[Resolve]
ResolveStrategy = ipv6
[Other]
`)
	if err != nil {
		t.Fatal(err)
	}
	peer := cfg.Tunnel.Peers[0]
	for what, got := range map[string][2]any{
		"addresses":    {len(cfg.Tunnel.Address), 2},
		"DNS":          {len(cfg.Tunnel.DNS), 2},
		"resolver":     {cfg.HostResolver, false},
		"MTU":          {cfg.Tunnel.MTU, 1400},
		"endpoint":     {peer.Endpoint, "vpn.example:51820"},
		"allowed IPs":  {fmt.Sprint(peer.AllowedIPs), "[0.0.0.0/0 ::/0]"},
		"keepalive":    {peer.PersistentKeepalive, 25 * time.Second},
		"check":        {fmt.Sprint(cfg.CheckAlive, cfg.CheckAliveInterval), "[10.0.0.1 fd00::1] 7s"},
		"SOCKS":        {fmt.Sprint(cfg.SOCKS[0].Listen, cfg.SOCKS[0].Username, cfg.SOCKS[0].Password), "127.0.0.1:25344mesecret"},
		"domains":      {fmt.Sprint(cfg.SOCKS[0].TunnelDomains), `[^a\.example$ b,c]`},
		"HTTP":         {cfg.HTTP[0].Listen, "localhost:http"},
		"SNI":          {cfg.SNI[0].Listen, ":443"},
		"TCP client":   {cfg.TCPClients[0].Listen + " " + cfg.TCPClients[0].Target, ":0 play.example:25565"},
		"TCP server":   {cfg.TCPServers[0].Listen + " " + cfg.TCPServers[0].Target, ":3422 localhost:25545"},
		"UDP":          {fmt.Sprint(cfg.UDPProxies[0].Listen, " ", cfg.UDPProxies[0].Target, " ", cfg.UDPProxies[0].InactivityTimeout), "127.0.0.1:1053 10.0.0.1:53 30s"},
		"UDP server":   {cfg.UDPServers[0].Listen + " " + cfg.UDPServers[0].Target, ":5353 localhost:53"},
		"STDIO":        {cfg.STDIO[0].Target, "ssh.example:22"},
		"resolve":      {cfg.Resolve, "ipv6"},
		"private key":  {cfg.Tunnel.PrivateKey.PublicKey().String() != "", true},
		"all warnings": {len(cfg.Warnings), 4},
	} {
		if !reflect.DeepEqual(got[0], got[1]) {
			t.Errorf("%s: %v, want %v", what, got[0], got[1])
		}
	}
	warnings := strings.Join(cfg.Warnings, "\n")
	for _, want := range []string{path + ":8: [Interface] Table", "[http] Colour is not", "[Other] is not a section", "[TCPClientTunnel] has no BindAddress"} {
		if !strings.Contains(warnings, want) {
			t.Errorf("warnings:\n%s\nwant %q among them", warnings, want)
		}
	}
}

func TestQuickFile(t *testing.T) {
	cfg, _, err := load(t, tunnel+"AllowedIPs = 10.0.0.0/8\n")
	if err != nil || len(cfg.Tunnel.Peers) != 1 || cfg.HostResolver || len(cfg.Warnings) != 0 {
		t.Errorf("%+v, %v", cfg, err)
	}
}

func TestWGConfig(t *testing.T) {
	dir := t.TempDir()
	os.WriteFile(filepath.Join(dir, "wg.conf"), []byte(tunnel), 0o600)
	path := filepath.Join(dir, "gateway.conf")
	os.WriteFile(path, []byte("WGConfig = wg.conf\n[Socks5]\nBindAddress = :1080\n"), 0o600)
	cfg, err := Load(path)
	if err != nil || len(cfg.Tunnel.Peers) != 1 || len(cfg.SOCKS) != 1 || !cfg.HostResolver {
		t.Errorf("%+v, %v", cfg, err)
	}
	os.WriteFile(path, []byte("\nWGConfig = missing.conf\n"), 0o600)
	if _, err := Load(path); err == nil || !strings.HasPrefix(err.Error(), path+":2: WGConfig: open ") {
		t.Errorf("a missing file: %v", err)
	}
}

// TestErrors checks that errors name file, line, section and key, say what was
// expected, and hold no secret.
func TestErrors(t *testing.T) {
	const secret = "hunter2"
	for text, want := range map[string]string{
		tunnel + "[Socks5]\nBindAddress = 1080":                                  `:7: [Socks5] BindAddress: "1080": want host:port`,
		tunnel + "[Socks5]\nBindAddress = :70000":                                `:7: [Socks5] BindAddress: ":70000": want a port from 0 to 65535`,
		tunnel + "[Socks5]\nPassword = " + secret:                                `:6: [Socks5] Username: want a name for the password`,
		tunnel + "[Socks5]\nPassword = $GATEWAY_TEST_UNSET":                      `:7: [Socks5] Password: the environment variable GATEWAY_TEST_UNSET is not set`,
		tunnel + "[Socks5]\nTunnelDomains = (":                                   ":7: [Socks5] TunnelDomains: error parsing regexp: missing closing ): `(`",
		tunnel + "[UDPProxyTunnel]\nBindAddress = unix:/x":                       `:7: [UDPProxyTunnel] BindAddress: "unix:/x": want a port`,
		tunnel + "[http]\nCertFile = x":                                          `:6: [http] want both CertFile and KeyFile, or none`,
		tunnel + "[http]\nCertFile = /missing\nKeyFile = /missing":               `:6: [http] CertFile and KeyFile: open /missing: `,
		tunnel + "[TCPClientTunnel]\nBindAddress = :1":                           `:6: [TCPClientTunnel] Target: want host:port`,
		tunnel + "[TCPClientTunnel]\nTarget = a:http":                            `:7: [TCPClientTunnel] Target: "http": want a port from 1 to 65535`,
		tunnel + "[TCPServerTunnel]\nTarget = a:1":                               `:6: [TCPServerTunnel] ListenPort: missing`,
		tunnel + "[UDPServerTunnel]\nTarget = a:1":                               `:6: [UDPServerTunnel] ListenPort: missing`,
		tunnel + "[UDPProxyTunnel]\nInactivityTimeout = -1":                      `:7: [UDPProxyTunnel] InactivityTimeout: "-1": want a number of seconds, at least 0`,
		tunnel + "[Resolve]\nResolveStrategy = IPv4":                             `:7: [Resolve] ResolveStrategy: "IPv4": want auto, ipv4 or ipv6`,
		"[Socks5]\n[Interface]\nPrivateKey = " + secret + "\n[Peer]\n":           `:3: [Interface] PrivateKey: `,
		"[Socks5]\n[Peer]\nPublicKey = " + public:                                `:2: want a section [Interface]`,
		"[Socks5]\n[Interface]\nAddress = 10.0.0.1\n[Peer]\nPublicKey=" + public: `:2: [Interface] PrivateKey: want a key of 32 bytes in base64`,
		"[Socks5]\n[Interface]\n[Interface]\n":                                   `:3: [Interface] want only one such section`,
		"[Socks5]\n[Interface]\nCheckAlive = 10.0.0.1/32\n":                      `:3: [Interface] CheckAlive: "10.0.0.1/32": want IP addresses, separated by commas`,
		"[Interface]\nAdress = 10.0.0.1\n":                                       `:2: [Interface] Adress: `,
	} {
		_, path, err := load(t, text)
		if err == nil || !strings.HasPrefix(err.Error(), path+want) || strings.Contains(err.Error(), secret) {
			t.Errorf("%q:\n%v, want it to begin with\n%s", text, err, path+want)
		}
	}
}
