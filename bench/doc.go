// Package bench runs this library against others: its tests check that it
// works with wireguard-go, as a library and as a daemon, with the Linux kernel
// and with the tools that configure them, its benchmarks compare it with
// wireguard-go. It exports nothing.
//
// # Benchmarks
//
//	go test -run '^$' -bench . -count 10 -timeout 0
//
// runs them all, with ten rounds of each. Both ends of a tunnel and the load
// are in one process, joined over loopback. Each contestant, impl= in the name
// of a result, has a round of a benchmark in turn, so that all see the machine
// in the same state:
//
//   - own, wireguard-go and tailscale (Tailscale's fork on a gVisor stack that
//     takes large packets, as in its product) have both ends;
//   - own-to-wireguard-go and wireguard-go-to-own have one each, the first
//     being the one that sends or asks;
//   - wireguard-go-tun is two daemons in network namespaces with the kernel's
//     TCP/IP, measured by iperf3, and left out where that or root is missing.
//
// A result is that of one round:
//
//   - MB/s: payload that has been read, in 10^6 bytes;
//   - %cipher: the same as a part of what all cores could pass if they did
//     nothing but seal and open its packets with x/crypto, measured just before;
//   - CPU-s/GB: processor time for 10^9 bytes, of both ends and the load;
//   - %loss, p50-us, p99-us, heap-B and the like: what their names say, heap-B
//     of one thing of its kind;
//   - x-MB/s, x-p50-us and so on, of own: how many times wireguard-go's value
//     the own one is, in this round. Less than 1 is better where less is.
//     x-tailscale- and x-tun- are to those contestants, of the first metric
//     only. A ratio to nothing is left out.
//
// Rates are those of the machine, ratios travel better. Tables of allowed IPs
// are compared with the benchmark of the same name in the library's package.
//
// A profile of one benchmark is of all its contestants; focus on those frames
// that pass through this library:
//
//	go test -run '^$' -bench '^BenchmarkTCP$/streams=1$' -count 20 -cpuprofile cpu.out
//	go tool pprof -focus 'wgstack/wireguard\.' -top -cum bench.test cpu.out
//
// The chart of the results, and a table:
//
//	go test -run '^$' -bench . -count 10 -timeout 0 . | go run ./chart -svg figures.svg
package bench
