// Package bench runs this library against other implementations. Its tests
// check interoperability with wireguard-go, as a library and as a daemon, with
// the Linux kernel, and with the tools that configure them. Its benchmarks
// compare this library with wireguard-go. It exports nothing.
//
// # Benchmarks
//
//	go test -run '^$' -bench . -count 10 -timeout 0
//
// runs all benchmarks with ten rounds of each. Both ends of a tunnel and the
// load run in one process, over loopback. The contestants, impl= in the name of
// a result, take turns: one round each, so that all see the machine in the same
// state:
//
//   - own, wireguard-go and tailscale (Tailscale's fork on a gVisor stack with
//     segmentation offload, as in its product) are at both ends;
//   - own-to-wireguard-go and wireguard-go-to-own have one implementation at
//     each end; the first sends, or makes the requests;
//   - wireguard-go-tun is two daemons in network namespaces with the kernel's
//     TCP/IP, measured by iperf3; it is left out without iperf3 or root.
//
// Each result is that of one round:
//
//   - MB/s: payload received, in 10^6 bytes per second;
//   - %cipher: the same as a percentage of the rate that is possible if all
//     cores do nothing but seal and open its packets with x/crypto, measured
//     just before;
//   - CPU-s/GB: processor time for 10^9 bytes, of both ends and the load;
//   - %loss, p50-us, p99-us, heap-B: loss, quantiles of durations in
//     microseconds, bytes of heap for one device, peer or connection;
//   - x-MB/s, x-p50-us and so on, of own: own's value divided by that of
//     wireguard-go in the same round. A ratio below 1 is better where smaller
//     values are better. x-tailscale- and x-tun- are ratios to those
//     contestants, for the first metric only. Undefined ratios are left out.
//
// Rates depend on the machine; ratios carry over better. The table of allowed
// IPs is compared with the benchmark of the same name in the library's package.
//
// A profile of a benchmark covers all its contestants. Restrict it to frames
// that pass through this library:
//
//	go test -run '^$' -bench '^BenchmarkTCP$/streams=1$' -count 20 -cpuprofile cpu.out
//	go tool pprof -focus 'wgstack/wireguard\.' -top -cum bench.test cpu.out
//
// To draw the chart of the results and print a table:
//
//	go test -run '^$' -bench . -count 10 -timeout 0 . | go run ./chart -svg figures.svg
package bench
