package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wgstack/wireguard/examples/internal/clitest"
	"github.com/wgstack/wireguard/examples/internal/relay"
)

// startSSHD runs the SSH server of OpenSSH on loopback until the end of the test,
// and returns its address, its public key and a private key that logs in as root.
// It skips the test where there is no OpenSSH.
func startSSHD(t *testing.T) (addr, hostKey, identity string) {
	t.Helper()
	for _, tool := range []string{"/usr/sbin/sshd", "ssh", "ssh-keygen", "mount"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip("needs the Debian packages openssh-client and openssh-server:", err)
		}
	}
	dir := t.TempDir()
	for _, name := range []string{"host", "user"} {
		if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, name)).CombinedOutput(); err != nil {
			t.Fatalf("ssh-keygen: %v\n%s", err, out)
		}
	}
	public, err := os.ReadFile(filepath.Join(dir, "host.pub"))
	if err != nil {
		t.Fatal(err)
	}
	config := clitest.File(t, "ListenAddress 127.0.0.1:2222", "HostKey "+dir+"/host", "AuthorizedKeysFile "+dir+"/user.pub",
		"PermitRootLogin prohibit-password", "StrictModes no", "UsePAM no", "PidFile none")
	// The server needs this folder, which only its service makes, so it has a /run
	// of its own.
	cmd := exec.Command("sh", "-c", `mount -t tmpfs tmpfs /run && mkdir /run/sshd && exec /usr/sbin/sshd -D -e -f "$0"`, config)
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	cmd.Stderr = t.Output()
	if err := cmd.Start(); err != nil {
		t.Skip("the user may not make a mount namespace:", err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		cmd.Wait()
	}()
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		<-ended
	})
	addr = "127.0.0.1:2222"
	for {
		if c, err := net.Dial("tcp", addr); err == nil {
			c.Close()
			return addr, strings.TrimSpace(string(public)), filepath.Join(dir, "user")
		}
		select {
		case <-ended:
			t.Fatal("sshd has ended")
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// TestSSH runs the ssh of OpenSSH through the gateway as its ProxyCommand, in a
// network namespace in which the name of the server means nothing.
func TestSSH(t *testing.T) {
	if !clitest.InNamespace(t) {
		return
	}
	addr, hostKey, identity := startSSHD(t)
	dev, tunnel := startFar(t)
	l, err := dev.Listen(t.Context(), "tcp", ":22")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", addr)
			if err != nil {
				relay.Reset(c)
				continue
			}
			go relay.Streams(t.Context(), c, server, nil)
		}
	}()
	known := clitest.File(t, "far "+hostKey)
	file := clitest.File(t, append(tunnel, "[STDIOTunnel]", "Target = "+farAddr4.String()+":22")...)
	ssh := func(stdin io.Reader, command string) (stdout, stderr []byte, err error) {
		cmd := exec.Command("timeout", "300", "ssh", "-F", "none", "-i", identity, "-o", "UserKnownHostsFile="+known, "-o", "BatchMode=yes",
			"-o", fmt.Sprintf("ProxyCommand=%s -q -c %s", os.Args[0], file), "root@far", command)
		cmd.Env = append(os.Environ(), "PROXY_TEST_MAIN=1")
		cmd.Stdin = stdin
		// The gateway has this pipe too, so that Run waits until it has ended.
		var out, errs bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &errs
		err = cmd.Run()
		return out.Bytes(), errs.Bytes(), err
	}

	data := make([]byte, 4<<20)
	rand.NewChaCha8([32]byte{}).Read(data)
	out, errs, err := ssh(bytes.NewReader(data), "cat")
	if err != nil || !bytes.Equal(out, data) || len(errs) > 0 {
		t.Errorf("cat: %d bytes, want %d; %v, %s", len(out), len(data), err, errs)
	}
	var status *exec.ExitError
	if _, errs, err := ssh(nil, "echo problem >&2; exit 7"); !errors.As(err, &status) || status.ExitCode() != 7 || string(errs) != "problem\n" {
		t.Errorf("exit 7: %v, %q", err, errs)
	}

	l.Close()
	if _, errs, err := ssh(nil, "true"); !errors.As(err, &status) || status.ExitCode() != 255 || !strings.Contains(string(errs), ":22: connect: connection refused") {
		t.Errorf("without a server: %v, %q", err, errs)
	}
}
