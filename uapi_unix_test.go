//go:build unix

package wireguard

import (
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/wgstack/wireguard/internal/simnet"
)

// newIdleDevice returns a device on its own simulated network, in real time.
func newIdleDevice(t *testing.T) *Device {
	n := simnet.New(1)
	t.Cleanup(n.Close)
	cfg, err := (&Config{PrivateKey: NewPrivateKey(), ListenPacket: n.ListenPacket(devOuter)}).canonical()
	if err != nil {
		t.Fatal(err)
	}
	d := newDevice(cfg)
	if err := d.start(cfg, new(fakeStack)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// socketDir returns a directory with a short path, since the length of socket
// paths is limited.
func socketDir(t *testing.T) string {
	dir, err := os.MkdirTemp("", "wg")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func mustListenUAPI(t *testing.T, dir, name string) net.Listener {
	t.Helper()
	l, err := listenUAPI(dir, name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func dialUAPI(t *testing.T, path string) *uapiClient {
	t.Helper()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return newUAPIClient(t, c)
}

// serveAt serves d on l and returns a channel for the result of ServeUAPI.
func serveAt(d *Device, l net.Listener) <-chan error {
	served := make(chan error, 1)
	go func() { served <- d.ServeUAPI(l) }()
	return served
}

func TestC11SocketIsPrivateAndRemoved(t *testing.T) {
	for _, umask := range []int{0, 0o027, 0o077} {
		dir := filepath.Join(socketDir(t), "new")
		old := syscall.Umask(umask)
		l, err := listenUAPI(dir, "wg0")
		syscall.Umask(old)
		if err != nil {
			t.Errorf("umask %#o: %v", umask, err)
			continue
		}
		path := filepath.Join(dir, "wg0.sock")
		for path, want := range map[string]fs.FileMode{dir: fs.ModeDir | 0o755, path: fs.ModeSocket | 0o700} {
			info, err := os.Lstat(path)
			if err != nil {
				t.Fatal(err)
			}
			if info.Mode() != want {
				t.Errorf("umask %#o: %s has mode %v, want %v", umask, path, info.Mode(), want)
			}
		}
		if l.Addr().String() != path {
			t.Errorf("address %v, want %s", l.Addr(), path)
		}
		d := newIdleDevice(t)
		served := serveAt(d, l)
		c := dialUAPI(t, path)
		c.mustSetLines("fwmark=1")
		wantValues(t, c.getLines(), "fwmark", "1")
		d.Close()
		if err := <-served; err != nil {
			t.Errorf("ServeUAPI: %v", err)
		}
		c.wantClosed("device closed")
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		if len(entries) != 0 {
			t.Errorf("Close left %v", entries)
		}
		if err := l.Close(); err != nil {
			t.Errorf("second Close: %v", err)
		}
	}
}

func TestC11NamesOfSocketsAreChecked(t *testing.T) {
	dir := socketDir(t)
	for _, name := range []string{"", ".", "..", "/", "a/b", "../a", "/etc/a", "a/", "a\x00b", strings.Repeat("a", 200)} {
		if l, err := listenUAPI(dir, name); err == nil {
			l.Close()
			t.Errorf("name %q was taken", name)
		}
		if l, err := ListenUAPI(name); err == nil {
			l.Close()
			t.Errorf("ListenUAPI takes name %q", name)
		} else if !strings.HasPrefix(err.Error(), "wireguard: ") {
			t.Errorf("name %q: %v", name, err)
		}
	}
	entries, _ := os.ReadDir(dir)
	if len(entries) != 0 {
		t.Errorf("left %v", entries)
	}
	for _, name := range []string{"a.b", "...", "wg 0", "-", "ü"} {
		mustListenUAPI(t, dir, name)
	}
}

func TestC11StaleSocketIsReplaced(t *testing.T) {
	dir := socketDir(t)
	path := filepath.Join(dir, "wg0.sock")
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	stale.Close()
	l := mustListenUAPI(t, dir, "wg0")
	serveAt(newIdleDevice(t), l)
	dialUAPI(t, path).mustSetLines("fwmark=1")
}

func TestC11LiveSocketIsRefused(t *testing.T) {
	dir := socketDir(t)
	l := mustListenUAPI(t, dir, "wg0")
	for range 2 {
		if _, err := listenUAPI(dir, "wg0"); !errors.Is(err, syscall.EADDRINUSE) {
			t.Fatalf("second listener: %v, want EADDRINUSE", err)
		}
	}
	serveAt(newIdleDevice(t), l)
	dialUAPI(t, l.Addr().String()).mustSetLines("fwmark=1")
}

func TestC11OtherFilesStay(t *testing.T) {
	dir := socketDir(t)
	path := filepath.Join(dir, "wg0.sock")
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("nowhere", filepath.Join(dir, "wg1.sock")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"wg0", "wg1"} {
		if l, err := listenUAPI(dir, name); err == nil {
			l.Close()
			t.Errorf("%s: replaced a file that is no socket", name)
		}
	}
	if b, err := os.ReadFile(path); string(b) != "precious" {
		t.Errorf("the file holds %q, %v", b, err)
	}
}

func TestC11DeletionEndsTheService(t *testing.T) {
	t.Parallel() // waits for the listener's polling interval
	dir := socketDir(t)
	l := mustListenUAPI(t, dir, "wg0")
	d := newIdleDevice(t)
	served := serveAt(d, l)
	c := dialUAPI(t, l.Addr().String())
	c.mustSetLines("fwmark=1")
	if err := os.Remove(l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if err := <-served; err != nil {
		t.Errorf("ServeUAPI: %v", err)
	}
	c.wantClosed("socket deleted")
	if err := l.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	// The name is free again, so the device can be served there.
	serveAt(d, mustListenUAPI(t, dir, "wg0"))
	wantValues(t, dialUAPI(t, l.Addr().String()).getLines(), "fwmark", "1")
}

func TestC11ReplacedSocketEndsTheService(t *testing.T) {
	t.Parallel()
	dir := socketDir(t)
	first := mustListenUAPI(t, dir, "wg0")
	served := serveAt(newIdleDevice(t), first)
	second := mustListenUAPI(t, dir, "other")
	serveAt(newIdleDevice(t), second)
	if err := os.Rename(second.Addr().String(), first.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if err := <-served; err != nil {
		t.Errorf("ServeUAPI: %v", err)
	}
	if err := first.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if _, err := os.Lstat(first.Addr().String()); err != nil {
		t.Errorf("Close removed the socket of another: %v", err)
	}
}

func TestC02BusyPortOfTheHost(t *testing.T) {
	taken, err := net.ListenPacket("udp4", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	cfg, err := (&Config{}).canonical()
	if err != nil {
		t.Fatal(err)
	}
	d := newDevice(cfg)
	if err := d.start(cfg, new(fakeStack)); err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if errno := d.applyUAPI(update{listenPort: new(netip.MustParseAddrPort(taken.LocalAddr().String()).Port())}); errno != uapiPortInUse {
		t.Errorf("errno %d, want %d", errno, uapiPortInUse)
	}
}
