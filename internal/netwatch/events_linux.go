package netwatch

import (
	"encoding/binary"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// eventGroups are the multicast groups of events: links, addresses, routes and
// routing rules of both families, without neighbours.
const eventGroups = unix.RTMGRP_LINK |
	unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV4_ROUTE | unix.RTMGRP_IPV4_RULE |
	unix.RTMGRP_IPV6_IFADDR | unix.RTMGRP_IPV6_ROUTE |
	1<<(unix.RTNLGRP_IPV6_RULE-1)

// maxDiscarded bounds the datagrams read at once, however fast events arrive.
const maxDiscarded = 4096

// netlink is a socket that receives the events of rtnetlink(7).
type netlink struct {
	socket *os.File
	raw    syscall.RawConn
	buf    []byte // only touched by wait and discard
	filter filter // only touched by wait and discard
}

// namespace identifies a network namespace: the zero value if it is unknown.
type namespace struct{ dev, inode uint64 }

// currentNamespace returns the network namespace of the thread, in which it opens
// sockets.
func currentNamespace() namespace {
	var st unix.Stat_t
	if unix.Stat("/proc/thread-self/ns/net", &st) != nil {
		return namespace{}
	}
	return namespace{uint64(st.Dev), uint64(st.Ino)}
}

func openEvents() (events, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: eventGroups}); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("bind", err)
	}
	n := &netlink{socket: os.NewFile(uintptr(fd), "netlink"), buf: make([]byte, 1<<15)}
	n.filter.init()
	if n.raw, err = n.socket.SyscallConn(); err != nil {
		n.socket.Close()
		return nil, err
	}
	return n, nil
}

func (n *netlink) close() { n.socket.Close() }

func (n *netlink) wait() error {
	for {
		relevant, err := n.readEvents(true)
		if relevant || err != nil {
			return err
		}
	}
}

func (n *netlink) discard() {
	for range maxDiscarded {
		if _, err := n.readEvents(false); err != nil {
			return
		}
	}
}

// readEvents receives a datagram of events, and reports whether any of them is
// relevant. If block is false it fails with EAGAIN when there is none.
func (n *netlink) readEvents(block bool) (relevant bool, err error) {
	var size int
	closed := n.raw.Read(func(fd uintptr) bool {
		size, err = unix.Read(int(fd), n.buf)
		return !block || err != unix.EAGAIN
	})
	switch {
	case closed != nil:
		return false, closed
	case err == unix.ENOBUFS:
		return true, nil // events were lost
	case err != nil:
		return false, err
	}
	messages, err := syscall.ParseNetlinkMessage(n.buf[:size])
	if err != nil {
		return true, nil
	}
	for i := range messages {
		relevant = n.filter.isRelevant(&messages[i]) || relevant
	}
	return relevant, nil
}

// filter leaves out the events that repeat what is known. An interface sends
// one whenever its statistics or the lifetime of an address change.
type filter struct {
	links     map[uint32]uint32  // the flags that matter, by index
	addresses map[address]uint32 // likewise
}

// address is the identity of an address of an interface.
type address struct {
	index uint32
	bits  uint8
	addr  string // the bytes of it
}

const (
	linkFlags    = unix.IFF_UP | unix.IFF_RUNNING | unix.IFF_LOWER_UP
	addressFlags = unix.IFA_F_DEPRECATED | unix.IFA_F_TENTATIVE | unix.IFA_F_DADFAILED
	// maxKnown bounds what is known; beyond it all is forgotten.
	maxKnown = 1 << 14
)

func (f *filter) init() {
	f.links, f.addresses = make(map[uint32]uint32), make(map[address]uint32)
}

// isRelevant reports whether m tells of a change. What an interface was like
// before its first event is not known, so that event counts as a change.
func (f *filter) isRelevant(m *syscall.NetlinkMessage) bool {
	switch m.Header.Type {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		if len(m.Data) < unix.SizeofIfInfomsg {
			return false
		}
		index, flags := binary.NativeEndian.Uint32(m.Data[4:]), binary.NativeEndian.Uint32(m.Data[8:])
		return noteState(f.links, index, flags&linkFlags, m.Header.Type == unix.RTM_DELLINK)
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		return f.isRelevantAddress(m)
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		// The table of local addresses changes with these. Cloned routes are
		// entries of a cache.
		return len(m.Data) >= unix.SizeofRtMsg && m.Data[4] != unix.RT_TABLE_LOCAL &&
			binary.NativeEndian.Uint32(m.Data[8:])&unix.RTM_F_CLONED == 0
	case unix.RTM_NEWRULE, unix.RTM_DELRULE:
		return true
	}
	return false
}

func (f *filter) isRelevantAddress(m *syscall.NetlinkMessage) bool {
	if len(m.Data) < unix.SizeofIfAddrmsg {
		return false
	}
	a := address{index: binary.NativeEndian.Uint32(m.Data[4:]), bits: m.Data[1]}
	flags := uint32(m.Data[2])
	for rest := m.Data[unix.SizeofIfAddrmsg:]; len(rest) >= unix.SizeofRtAttr; {
		size, kind := int(binary.NativeEndian.Uint16(rest)), binary.NativeEndian.Uint16(rest[2:])
		if size < unix.SizeofRtAttr || size > len(rest) {
			break
		}
		switch value := rest[unix.SizeofRtAttr:size]; {
		case kind == unix.IFA_LOCAL, kind == unix.IFA_ADDRESS && a.addr == "":
			a.addr = string(value)
		case kind == unix.IFA_FLAGS && len(value) >= 4:
			flags = binary.NativeEndian.Uint32(value)
		}
		rest = rest[min((size+unix.NLMSG_ALIGNTO-1)&^(unix.NLMSG_ALIGNTO-1), len(rest)):]
	}
	return noteState(f.addresses, a, flags&addressFlags, m.Header.Type == unix.RTM_DELADDR)
}

// noteState remembers the state of a link or an address, or that it was
// removed, and reports whether that is new.
func noteState[K comparable](known map[K]uint32, k K, state uint32, removed bool) bool {
	if removed {
		delete(known, k)
		return true
	}
	last, ok := known[k]
	if len(known) >= maxKnown {
		clear(known)
	}
	known[k] = state
	return !ok || last != state
}
