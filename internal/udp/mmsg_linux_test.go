package udp

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// offloads are the combinations of segmentation and coalescing.
var offloads = []struct{ gso, gro bool }{{true, true}, {true, false}, {false, true}, {false, false}}

func (c *conn) setOffloads(gso, gro bool) {
	if !gso {
		c.gso.Store(false)
	}
	if !gro {
		c.raw.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_GRO, 0) })
	}
}

// wantExchange checks that two sockets exchange batches in both directions.
func wantExchange(t *testing.T, a, b Socket, aAddr, bAddr Message) {
	t.Helper()
	for range 2 {
		for _, way := range []struct {
			from, to Socket
			dst      Message
		}{{a, b, bAddr}, {b, a, aAddr}} {
			sent := mixedBatch(way.dst.Addr)[:7]
			var want [][]byte
			for _, m := range sent {
				want = append(want, datagrams(m.Buf, m.SegmentSize)...)
			}
			writeAll(t, way.from, sent...)
			var got [][]byte
			readUntil(t, way.to, func(ms []Message) bool {
				got = nil
				for _, m := range ms {
					got = append(got, datagrams(m.Buf, m.SegmentSize)...)
				}
				return len(got) >= len(want)
			})
			if len(got) != len(want) {
				t.Fatalf("%d datagrams, want %d", len(got), len(want))
			}
			for i := range got {
				if !bytes.Equal(got[i], want[i]) {
					t.Fatalf("datagram %d has %d bytes, want %d", i, len(got[i]), len(want[i]))
				}
			}
		}
	}
}

// forEachSocketPair calls f with two sockets of each family for all
// combinations of offloads.
func forEachSocketPair(t *testing.T, f func(t *testing.T, a, b *conn, aAddr, bAddr Message)) {
	for _, k := range socketKinds {
		if k.name != "IPv4" && k.name != "IPv6 on dual-stack" {
			continue
		}
		for _, o := range offloads {
			t.Run(fmt.Sprintf("%s/gso=%v,gro=%v", k.name, o.gso, o.gro), func(t *testing.T) {
				a := openSocket(t, k.network, k.address).(*conn)
				b := openSocket(t, k.peer, net.JoinHostPort(k.ip.String(), "0")).(*conn)
				a.setOffloads(o.gso, o.gro)
				b.setOffloads(o.gso, o.gro)
				f(t, a, b, Message{Addr: addrOn(a, k.ip)}, Message{Addr: addrOn(b, k.ip)})
			})
		}
	}
}

// refuseCall returns a system call that fails with errno after the first
// allowed calls, and the number of calls so far.
func refuseCall(
	errno syscall.Errno, allowed int, call func(uintptr, []mmsghdr, int) (int, syscall.Errno),
) (refusing func(uintptr, []mmsghdr, int) (int, syscall.Errno), calls *int) {
	calls = new(int)
	return func(fd uintptr, hs []mmsghdr, flags int) (int, syscall.Errno) {
		if *calls++; *calls > allowed {
			return 0, errno
		}
		return call(fd, hs, flags)
	}, calls
}

func TestFallsBackToSingleMessages(t *testing.T) {
	errnos := []syscall.Errno{0, unix.ENOSYS, unix.EPERM}
	for _, recv := range errnos {
		for _, send := range errnos {
			for _, allowed := range []int{0, 1} { // 1: the filter is installed later
				t.Run(fmt.Sprintf("recvmmsg=%s,sendmmsg=%s,after=%d", unix.ErrnoName(recv), unix.ErrnoName(send), allowed), func(t *testing.T) {
					forEachSocketPair(t, func(t *testing.T, a, b *conn, aAddr, bAddr Message) {
						var recvs, sends *int
						for _, c := range []*conn{a, b} {
							if recv != 0 {
								c.calls.recvmmsg, recvs = refuseCall(recv, allowed, recvmmsg)
							}
							if send != 0 {
								c.calls.sendmmsg, sends = refuseCall(send, allowed, sendmmsg)
							}
						}
						wantExchange(t, a, b, aAddr, bAddr)
						for _, c := range []*conn{a, b} {
							if got := c.calls.noRecvmmsg.Load(); got != (recv != 0) {
								t.Errorf("recvmmsg given up: %v", got)
							}
							if got := c.calls.noSendmmsg.Load(); got != (send != 0) {
								t.Errorf("sendmmsg given up: %v", got)
							}
						}
						// The refused call and the probe; after that the
						// refusal is remembered.
						if recv != 0 && *recvs != allowed+2 || send != 0 && *sends != allowed+2 {
							t.Errorf("%d calls of recvmmsg, %d of sendmmsg", *recvs, *sends)
						}
					})
				})
			}
		}
	}
}

// A firewall that drops a datagram makes the call fail with EPERM too. That
// must not make the socket give up sendmmsg, whether it drops the datagram
// always or sometimes.
func TestFirewallIsNotARefusal(t *testing.T) {
	s := openSocket(t, "udp4", "127.0.0.1:0").(*conn)
	pc := listenPlain(t, "udp4", "127.0.0.1:0")
	drop := func(h *mmsghdr) bool { return h.Iov.Len == 66 }
	failSends(s, unix.EPERM, drop)
	s.calls.sendmsg = func(uintptr, *mmsghdr, int) syscall.Errno {
		t.Error("sendmsg was called")
		return 0
	}
	good := Message{Buf: []byte("good"), Addr: addrOf(pc)}
	for range 20 {
		ms := []Message{good, {Buf: make([]byte, 66), Addr: addrOf(pc)}, good}
		n, err := s.WriteBatch(ms)
		if n != 1 || !isErrno(err, unix.EPERM) {
			t.Fatalf("WriteBatch = %d, %v, want 1, EPERM", n, err)
		}
		writeAll(t, s, ms[2:]...)
		wantDatagrams(t, pc, []Message{good, good})
	}
	if s.calls.noSendmmsg.Load() {
		t.Error("sendmmsg was given up")
	}
}

// Where the single calls are refused too, the caller is told.
func TestAllCallsRefused(t *testing.T) {
	s := openSocket(t, "udp4", "127.0.0.1:0").(*conn)
	s.calls.sendmmsg, _ = refuseCall(unix.EPERM, 0, sendmmsg)
	s.calls.recvmmsg, _ = refuseCall(unix.ENOSYS, 0, recvmmsg)
	s.calls.sendmsg = func(uintptr, *mmsghdr, int) syscall.Errno { return unix.EPERM }
	s.calls.recvmsg = func(uintptr, *mmsghdr, int) syscall.Errno { return unix.ENOSYS }
	if n, err := s.WriteBatch([]Message{{Buf: []byte("x"), Addr: s.LocalAddr()}}); n != 0 || !isErrno(err, unix.EPERM) {
		t.Errorf("WriteBatch = %d, %v", n, err)
	}
	if n, err := s.ReadBatch(newBatch(1)); n != 0 || !isErrno(err, unix.ENOSYS) {
		t.Errorf("ReadBatch = %d, %v", n, err)
	}
}

// seccompEnv holds the errnos of recvmmsg and sendmmsg in a child process of
// TestUnderSeccomp, 0 where the call is allowed.
const seccompEnv = "UDP_TEST_SECCOMP"

func TestUnderSeccomp(t *testing.T) {
	if spec := os.Getenv(seccompEnv); spec != "" {
		var recv, send syscall.Errno
		fmt.Sscan(spec, &recv, &send)
		if err := refuseBatchCalls(recv, send); err != nil {
			t.Skipf("seccomp: %v", err)
		}
		forEachSocketPair(t, func(t *testing.T, a, b *conn, aAddr, bAddr Message) {
			wantExchange(t, a, b, aAddr, bAddr)
			if a.calls.noRecvmmsg.Load() != (recv != 0) || a.calls.noSendmmsg.Load() != (send != 0) {
				t.Errorf("recvmmsg given up: %v, sendmmsg: %v", a.calls.noRecvmmsg.Load(), a.calls.noSendmmsg.Load())
			}
		})
		return
	}
	exe, err := os.Executable()
	if err != nil {
		t.Skip(err)
	}
	errnos := []syscall.Errno{0, unix.ENOSYS, unix.EPERM}
	for _, recv := range errnos {
		for _, send := range errnos {
			t.Run(fmt.Sprintf("recvmmsg=%s,sendmmsg=%s", unix.ErrnoName(recv), unix.ErrnoName(send)), func(t *testing.T) {
				t.Parallel()
				cmd := exec.Command(exe, "-test.run=^TestUnderSeccomp$", "-test.v", "-test.timeout=1m")
				cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d %d", seccompEnv, int(recv), int(send)))
				out, err := cmd.CombinedOutput()
				if err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
				if strings.Contains(string(out), "--- SKIP: TestUnderSeccomp (") {
					t.Skipf("%s", out)
				}
			})
		}
	}
}

// refuseBatchCalls makes recvmmsg and sendmmsg fail in all threads of this
// process, for ever. It needs no privilege.
func refuseBatchCalls(recv, send syscall.Errno) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	verdict := func(errno syscall.Errno) uint32 {
		if errno == 0 {
			return unix.SECCOMP_RET_ALLOW
		}
		return unix.SECCOMP_RET_ERRNO | uint32(errno)
	}
	program := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}, // the number of the call
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: unix.SYS_RECVMMSG},
		{Code: unix.BPF_RET | unix.BPF_K, K: verdict(recv)},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: unix.SYS_SENDMMSG},
		{Code: unix.BPF_RET | unix.BPF_K, K: verdict(send)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	fprog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&fprog))); errno != 0 {
		return errno
	}
	return nil
}
