//go:build !wasm

package udp

// HasSockets reports whether the system has UDP sockets.
const HasSockets = true
