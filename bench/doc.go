// Package bench runs this library against others: its tests check that it
// works with wireguard-go, as a library and as a daemon, with the Linux kernel
// and with the tools that configure them, its benchmarks compare it with
// wireguard-go. It exports nothing.
package bench
