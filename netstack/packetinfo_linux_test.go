package netstack

import "syscall"

// The flags have the values of Linux.
var (
	_ [flagTruncated - syscall.MSG_TRUNC]struct{}
	_ [syscall.MSG_TRUNC - flagTruncated]struct{}
	_ [flagControlTruncated - syscall.MSG_CTRUNC]struct{}
	_ [syscall.MSG_CTRUNC - flagControlTruncated]struct{}
)
