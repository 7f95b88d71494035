package socks

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"os"
	"strconv"
	"strings"
)

// ownerCheck returns a function that reports whether a UDP socket of this host
// belongs to the user who owns the client's end of a TCP connection, given that
// connection's addresses. It returns nil if the owner is not known, as that of
// a client on another host.
func ownerCheck(client, server netip.AddrPort) func(udp netip.AddrPort) bool {
	owners := socketOwners("tcp", func(local, remote netip.AddrPort) bool {
		return local == client && remote == server
	})
	if len(owners) != 1 {
		return nil
	}
	return func(udp netip.AddrPort) bool {
		// More than one socket may have the port, by SO_REUSEADDR or under the
		// unspecified address: then all must be the user's.
		udpOwners := socketOwners("udp", func(local, _ netip.AddrPort) bool {
			return local.Port() == udp.Port() && (local.Addr() == udp.Addr().WithZone("") || local.Addr().IsUnspecified())
		})
		for _, uid := range udpOwners {
			if uid != owners[0] {
				return false
			}
		}
		return len(udpOwners) > 0
	}
}

// socketOwners returns the user IDs of the owners of the sockets that match,
// from /proc/net.
func socketOwners(protocol string, match func(local, remote netip.AddrPort) bool) (uids []uint64) {
	for _, table := range []string{protocol, protocol + "6"} {
		f, err := os.Open("/proc/net/" + table)
		if err != nil {
			continue
		}
		for lines := bufio.NewScanner(f); lines.Scan(); {
			// sl, local_address, rem_address, st, queues, tr, retrnsmt, uid,
			// ...
			fields := strings.Fields(lines.Text())
			if len(fields) < 8 {
				continue
			}
			local, ok := parseProcAddr(fields[1])
			remote, remoteOK := parseProcAddr(fields[2])
			if !ok || !remoteOK || !match(local, remote) {
				continue
			}
			if uid, err := strconv.ParseUint(fields[7], 10, 32); err == nil {
				uids = append(uids, uid)
			}
		}
		f.Close()
	}
	return uids
}

// parseProcAddr parses an address of /proc/net: 32-bit words in the byte order
// of the machine, and the port, in hexadecimal.
func parseProcAddr(s string) (netip.AddrPort, bool) {
	host, portText, ok := strings.Cut(s, ":")
	port, err := strconv.ParseUint(portText, 16, 16)
	b, hexErr := hex.DecodeString(host)
	if !ok || err != nil || hexErr != nil {
		return netip.AddrPort{}, false
	}
	for word := b; len(word) >= 4; word = word[4:] {
		binary.NativeEndian.PutUint32(word, binary.BigEndian.Uint32(word))
	}
	addr, ok := netip.AddrFromSlice(b)
	return netip.AddrPortFrom(addr.Unmap(), uint16(port)), ok
}
