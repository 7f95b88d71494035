package bench

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/wgstack/wireguard"
)

// Configuration files as they are found, read by "wg-quick strip" and "wg setconf"
// on one side and by ParseConfig on the other. Both must refuse a file, or make
// the same device of it.

// needQuick skips the test if wg-quick(8) cannot be run.
func needQuick(t *testing.T) {
	needWG(t)
	if _, err := exec.LookPath("wg-quick"); err != nil {
		t.Skip("wg-quick(8), of wireguard-tools, is not installed")
	}
	if os.Geteuid() != 0 {
		t.Skip("wg-quick(8) needs root")
	}
}

// wgVersion returns the version of wg, such as v1.0.20210914, whose order is that
// of strings.
func wgVersion(t *testing.T) string {
	t.Helper()
	out, err := tryWG("", "--version")
	fields := strings.Fields(out)
	if err != nil || len(fields) < 2 {
		t.Fatalf("wg --version: %q, %v", out, err)
	}
	return fields[1]
}

func TestQuickFiles(t *testing.T) {
	needQuick(t)
	const (
		private = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk="
		public  = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
		psk     = "FpCyhws9cxwWoV4xELtfJvjJN+zQVRPISllRWgeopVE="
		intf    = "[Interface]\nPrivateKey = " + private + "\n"
		peer    = "[Peer]\nPublicKey = " + public + "\n"
	)
	version := wgVersion(t)
	for _, test := range []struct {
		name, file string
		stricter   string // why ParseConfig refuses what wg accepts
		since      string // the version of wg that knows what is in the file
	}{
		{name: "ordinary", file: intf + "Address = 10.0.0.2/32, fd00::2/128\nDNS = 10.0.0.1, corp.example\nMTU = 1380\n" +
			peer + "PresharedKey = " + psk + "\nAllowedIPs = 0.0.0.0/0, ::/0\nEndpoint = 192.0.2.1:51820\nPersistentKeepalive = 25\n"},
		{name: "blank values", file: intf + "Address =\nDNS = \nMTU =\nTable =\nPreUp =\nPostUp =\nPreDown = # none\nPostDown =\n" + peer},
		{name: "blank SaveConfig", file: intf + "SaveConfig =\n"},
		{name: "blank ListenPort", file: intf + "ListenPort =\n"},
		{name: "blank PrivateKey", file: "[Interface]\nPrivateKey =\n"},
		{name: "blank Endpoint", file: intf + peer + "Endpoint =\n"},
		{name: "blank AllowedIPs", file: intf + peer + "AllowedIPs =\n"},
		{name: "blank PresharedKey", file: intf + peer + "PresharedKey =\n"},
		{name: "blank PersistentKeepalive", file: intf + peer + "PersistentKeepalive =\n"},
		{name: "carriage returns", file: strings.ReplaceAll(intf+"Address = 10.0.0.2/32\nPostUp = true\n"+peer+"AllowedIPs = 10.0.0.0/8\nEndpoint = 192.0.2.1:1\n", "\n", "\r\n")},
		{name: "no line end", file: intf + peer + "AllowedIPs = 10.0.0.0/8"},
		{name: "trailing NUL", file: intf + peer + "AllowedIPs = 10.0.0.0/8\n\x00"},
		{name: "trailing NUL in a line", file: intf + peer + "AllowedIPs = 10.0.0.0/8\x00"},
		{name: "NUL in every line", file: strings.ReplaceAll(intf+peer+"AllowedIPs = 10.0.0.0/8\n", "\n", "\x00\n")},
		{name: "byte order mark", file: "\ufeff" + intf},
		{name: "comments", file: "# head\n" + intf + "ListenPort = 0 # any\n#[Peer]\n" + peer + "AllowedIPs = 10.0.0.0/8 # all\n;\n"},
		{name: "comments of wg", file: "# head\n" + intf + "FwMark = 0x0 # any\n" + peer + "AllowedIPs = 10.0.0.0/8 # all\n"},
		{name: "case and spaces", file: "[INTERFACE]\nprivatekey=" + private + "\n ADDRESS = 10.0.0.2 \n[peer]\nPUBLICKEY\t=\t" + public + "\nallowedips=10.0.0.0/8,\t10.9.0.0/16\n"},
		{name: "spaces inside", file: "[ Interface ]\nPrivate Key = " + private + "\n[Pe er]\nPublicKey = " + public + "\nAllowed IPs = 10. 0.0.0/8\n"},
		{name: "hook with a number sign", file: intf + "PostUp = echo '# not a comment'; echo a=b\n" + peer},
		{name: "keys of wg-quick in a peer", file: intf + peer + "Address = 10.0.0.1\n"},
		{name: "interface after peer", file: peer + "AllowedIPs = 10.0.0.0/8\n" + intf + "Address = 10.0.0.2\n"},
		{name: "unknown key", file: intf + "Jc = 4\n"},
		{name: "unknown section", file: intf + "[Socks5]\nBindAddress = 127.0.0.1:1\n"},
		{name: "key before a section", file: "PrivateKey = " + private + "\n"},
		{name: "no value sign", file: intf + peer + "AllowedIPs 10.0.0.0/8\n"},
		{name: "peer without a key", file: intf + "[Peer]\nAllowedIPs = 10.0.0.0/8\n"},
		{name: "peer twice", file: intf + peer + "AllowedIPs = 10.0.0.0/8\nPersistentKeepalive = 5\n" + peer + "AllowedIPs = 10.9.0.0/16\n"},
		{name: "allowed IPs as changes", file: intf + peer + "AllowedIPs = 10.0.0.0/8, 10.9.0.0/16\n" + peer + "AllowedIPs = -10.9.0.0/16, +fd00::/8\n", since: "v1.0.20250521"},
		{name: "allowed IPs with host bits", file: intf + peer + "AllowedIPs = 10.1.2.3/8, fd00::1/8, 192.0.2.1\n"},
		{name: "allowed IPs with a comma at the end", file: intf + peer + "AllowedIPs = 10.0.0.0/8,\n"},
		{name: "allowed IPs with a short address", file: intf + peer + "AllowedIPs = 10.1/8\n"},
		{name: "allowed IPs with a mask that is too long", file: intf + peer + "AllowedIPs = 10.0.0.0/33\n"},
		{name: "keepalive off", file: intf + peer + "PersistentKeepalive = off\n"},
		{name: "keepalive too long", file: intf + peer + "PersistentKeepalive = 65536\n"},
		{name: "key with a wrong end", file: "[Interface]\nPrivateKey = " + private[:42] + "l=\n"},
		{name: "key in quotes", file: "[Interface]\nPrivateKey = \"" + private + "\"\n"},
		{name: "service", file: intf + peer + "Endpoint = 192.0.2.1:domain\n"},
		{name: "service and IPv6", file: intf + peer + "Endpoint = [2001:db8::1]:ntp\n"},
		{name: "service that does not exist", file: intf + peer + "Endpoint = 192.0.2.1:no-such-thing\n"},
		{name: "short address", file: intf + peer + "Endpoint = 127.1:51820\n"},
		{name: "address of one number", file: intf + peer + "Endpoint = 2130706433:51820\n"},
		{name: "hexadecimal and octal address", file: intf + peer + "Endpoint = 0x7f.010.0.1:51820\n"},
		{name: "digit that is not octal", file: intf + peer + "Endpoint = 08.0.0.1:51820\n"},
		{name: "number too large", file: intf + peer + "Endpoint = 127.16777216:51820\n"},
		{name: "IPv4 in brackets", file: intf + peer + "Endpoint = [192.0.2.1]:51820\n"},
		{name: "IPv6 without brackets", file: intf + peer + "Endpoint = 2001:db8::1:51820\n"},
		{name: "no port", file: intf + peer + "Endpoint = 192.0.2.1\n"},
		{name: "empty port", file: intf + peer + "Endpoint = 192.0.2.1:\n"},
		{name: "empty host", file: intf + peer + "Endpoint = :51820\n"},
		{name: "port with leading zeros", file: intf + peer + "Endpoint = 192.0.2.1:00051820\n"},
		{name: "port 0", file: intf + peer + "Endpoint = 192.0.2.1:0\n", stricter: "nothing can be sent to port 0"},
		{name: "port too large", file: intf + peer + "Endpoint = 192.0.2.1:65537\n", stricter: "wg takes it for port 1"},
		{name: "NUL inside a line", file: intf + peer + "PersistentKeepalive = 2\x005\n", stricter: "wg takes it for 2, and wg-quick for 25"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if version < test.since {
				t.Skipf("wg is older than %s", test.since)
			}
			t.Parallel()
			want, refused := loadByTools(t, test.file)
			got, err := loadByParser(t, test.file)
			switch {
			case test.stricter != "":
				if refused != nil || err == nil {
					t.Errorf("wg: %v, ParseConfig: %v, which is stricter no more: %s", refused, err, test.stricter)
				}
			case refused != nil && err != nil:
				t.Logf("both refuse it: %v; %v", refused, err)
			case refused != nil || err != nil:
				t.Errorf("wg: %v, ParseConfig: %v", refused, err)
			case got != want:
				t.Errorf("ParseConfig makes\n%s\nand wg\n%s", got, want)
			}
		})
	}
}

// loadByTools returns the configuration of a device after "wg-quick strip" and
// "wg setconf".
func loadByTools(t *testing.T, file string) (conf string, err error) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "quick.conf")
	if err := os.WriteFile(name, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	stripped, err := exec.CommandContext(t.Context(), "wg-quick", "strip", name).Output()
	if exit, ok := err.(*exec.ExitError); ok {
		return "", fmt.Errorf("wg-quick: %s", exit.Stderr)
	}
	if err != nil {
		t.Fatal(err)
	}
	c := control(t, wireguard.Config{})
	if _, err := tryWG(string(stripped), "setconf", c.name, "/dev/stdin"); err != nil {
		return "", err
	}
	return shownConf(c), nil
}

// loadByParser returns the configuration of a device that was made from a file.
func loadByParser(t *testing.T, file string) (conf string, err error) {
	t.Helper()
	cfg, err := wireguard.ParseConfig(strings.NewReader(file))
	if err != nil {
		return "", err
	}
	for _, p := range cfg.Peers {
		if host, _, err := net.SplitHostPort(p.Endpoint); err == nil && net.ParseIP(host) == nil {
			t.Fatalf("endpoint %s is a name", p.Endpoint)
		}
	}
	return shownConf(control(t, cfg)), nil
}

// shownConf returns what "wg showconf" shows of a device, without the port, which
// is random, and in an order that does not depend on that of the device.
func shownConf(c *controlled) string {
	c.Helper()
	sections := strings.Split(c.wg("", "showconf"), "\n\n")
	for i, section := range sections {
		lines := strings.Split(strings.TrimSpace(section), "\n")
		lines = slices.DeleteFunc(lines, func(l string) bool { return strings.HasPrefix(l, "ListenPort") })
		for j, l := range lines {
			if ips, ok := strings.CutPrefix(l, "AllowedIPs = "); ok {
				sorted := strings.Split(ips, ", ")
				slices.Sort(sorted)
				lines[j] = "AllowedIPs = " + strings.Join(sorted, ", ")
			}
		}
		sections[i] = strings.Join(lines, "\n")
	}
	slices.Sort(sections)
	return strings.Join(sections, "\n\n")
}
