package main

import (
	"context"
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// watchAddrs calls changed whenever an address of an interface has changed,
// until ctx ends or the system refuses to tell.
func watchAddrs(ctx context.Context, changed func()) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return
	}
	f := os.NewFile(uintptr(fd), "netlink")
	defer f.Close()
	groups := uint32(unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR)
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		return
	}
	defer context.AfterFunc(ctx, func() { f.Close() })()
	changed() // a change may have come before
	buf := make([]byte, 1<<16)
	for {
		// The content does not matter. ENOBUFS says that reports were lost.
		if _, err := f.Read(buf); err != nil && !errors.Is(err, unix.ENOBUFS) {
			return
		}
		changed()
	}
}
