// Package bench runs this library against wireguard-go, over UDP on the
// loopback interface: its tests check that the two work together, its
// benchmarks compare them. It exports nothing.
package bench
