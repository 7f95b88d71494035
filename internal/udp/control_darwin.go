package udp

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

const recvLocal4 = unix.IP_PKTINFO

// decodeLocal4 reads struct in_pktinfo. Darwin sets ipi_addr, the destination
// in the header, but not ipi_spec_dst.
func decodeLocal4(data []byte) Local {
	if len(data) < unix.SizeofInet4Pktinfo {
		return Local{}
	}
	return Local{netip.AddrFrom4([4]byte(data[8:])), int(binary.NativeEndian.Uint32(data))}
}

// encodeLocal4 leaves the interface index 0: otherwise Darwin would send from
// an address of the interface instead.
func encodeLocal4(b []byte, local Local) []byte {
	b, data := appendControl(b, unix.IPPROTO_IP, unix.IP_PKTINFO, unix.SizeofInet4Pktinfo)
	*(*[4]byte)(data[4:]) = local.Addr.As4()
	return b
}

func setMark(uintptr, uint32) error { return nil }
