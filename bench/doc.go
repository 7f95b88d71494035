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
//   - kernel is wireguard-go in the same process, with an interface in a network
//     namespace and the kernel's TCP/IP, CUBIC whatever the machine's default,
//     at both ends; own-to-kernel and kernel-to-own have it at one end. They
//     are left out without root, and on other systems than Linux;
//   - wireguard-go-tun is two daemons in network namespaces with the kernel's
//     TCP/IP, measured by iperf3; it is left out without iperf3 or root.
//
// Each result is that of one round:
//
//   - MB/s, B/s: payload received, in 10^6 bytes, or bytes, per second;
//   - %cipher: the same as a percentage of the rate that is possible if all
//     cores do nothing but seal and open its packets with x/crypto, measured
//     just before;
//   - CPU-s/GB: processor time for 10^9 bytes, of both ends and the load;
//   - %loss, p50-us, p90-us, p99-us, heap-B: loss, quantiles of durations in
//     microseconds, bytes of heap for one device, peer or connection;
//   - longest-stall-ms, stalls: the longest time without a byte received, and
//     how often that was 2 s or an answer took as long, which ends a round;
//   - x-MB/s, x-p50-us and so on, of own: own's value divided by that of
//     wireguard-go in the same round. A ratio below 1 is better where smaller
//     values are better. x-tailscale- and x-tun- are ratios to those
//     contestants, for the first metric only, and so is x-kernel-. Undefined
//     ratios are left out.
//
// BenchmarkPath simulates paths: the names of its results have the round trip
// time and the share of packets that are lost, lost in bursts of ten on average,
// or 2 ms late, in each direction. Each round is a stream of some seconds, and
// answers of 20 KB to one-byte requests on eight connections, the times of which
// are the quantiles. A round of all cells takes a quarter of an hour:
//
//	go test -run '^$' -bench Path -timeout 0 . | go run ./chart
//
// With -benchtime 1x round trips and measurements are shortened so much that the
// figures mean nothing.
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
// To draw the chart of the results and print tables:
//
//	go test -run '^$' -bench . -count 10 -timeout 0 . | go run ./chart -svg figures.svg
package bench
