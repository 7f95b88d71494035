// Package clients shows how widely used packages are told to reach their
// servers through a device. Each file has one function to copy, and beside it a
// test that runs it against a real server at the far end of a tunnel.
//
// The names of servers are looked up through the tunnel too, with the servers
// of wireguard.Config.DNS. Where a package would otherwise ask the resolver of
// the host first, a comment says what prevents it.
package clients
