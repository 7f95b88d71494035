package udp

import (
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

const recvLocal4 = unix.IP_RECVDSTADDR

// decodeLocal4 reads a struct in_addr. FreeBSD does not tell the interface.
func decodeLocal4(data []byte) Local {
	if len(data) < 4 {
		return Local{}
	}
	return Local{Addr: netip.AddrFrom4([4]byte(data))}
}

func encodeLocal4(b []byte, local Local) []byte {
	b, data := appendControl(b, unix.IPPROTO_IP, unix.IP_SENDSRCADDR, 4)
	*(*[4]byte)(data) = local.Addr.As4()
	return b
}

func setMark(fd uintptr, mark uint32) error {
	return os.NewSyscallError("setsockopt SO_USER_COOKIE", unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_USER_COOKIE, int(int32(mark))))
}
