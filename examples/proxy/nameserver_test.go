package main

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// TestDemoUDP queries the name server of the far end through UDP ASSOCIATE, by
// its addresses and by its name.
func TestDemoUDP(t *testing.T) {
	addr, _ := startGateway(t, "-demo")
	control, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer control.Close()
	control.SetDeadline(time.Now().Add(20 * time.Second))
	io.WriteString(control, "\x05\x01\x00\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00")
	var answer [2 + 10]byte
	if _, err := io.ReadFull(control, answer[:]); err != nil || string(answer[:10]) != "\x05\x00\x05\x00\x00\x01\x7f\x00\x00\x01" {
		t.Fatalf("answer %x, %v", answer, err)
	}
	relay := &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(binary.BigEndian.Uint16(answer[10:]))}
	udp, err := net.DialUDP("udp", nil, relay)
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	udp.SetDeadline(time.Now().Add(20 * time.Second))

	ip4 := "\x01" + string(farAddr4.AsSlice()) + "\x00\x35"
	ip6 := "\x04" + string(farAddr6.AsSlice()) + "\x00\x35"
	for id, test := range []struct {
		to, from string
		typ      dnsmessage.Type
		want     []byte
	}{
		{ip4, ip4, dnsmessage.TypeA, farAddr4.AsSlice()},
		{ip6, ip6, dnsmessage.TypeAAAA, farAddr6.AsSlice()},
		{"\x03\x07demo.wg\x00\x35", "", dnsmessage.TypeA, farAddr4.AsSlice()},
	} {
		query := dnsmessage.Message{
			Header:    dnsmessage.Header{ID: uint16(id), RecursionDesired: true},
			Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName("demo.wg."), Type: test.typ, Class: dnsmessage.ClassINET}},
		}
		b, err := query.Pack()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := udp.Write(append([]byte("\x00\x00\x00"+test.to), b...)); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 2048)
		n, err := udp.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		got := buf[:n]
		if header := "\x00\x00\x00" + test.from; !bytes.HasPrefix(got, []byte(header)) {
			t.Fatalf("answer %x, want it to begin with %x", got, header)
		}
		headerLen := len("\x00\x00\x00") + len(ip4)
		if got[3] == 4 {
			headerLen = len("\x00\x00\x00") + len(ip6)
		}
		var m dnsmessage.Message
		if err := m.Unpack(got[headerLen:]); err != nil || m.ID != uint16(id) || len(m.Answers) != 1 {
			t.Fatalf("answer %+v, %v", m, err)
		}
		switch r := m.Answers[0].Body.(type) {
		case *dnsmessage.AResource:
			if !bytes.Equal(r.A[:], test.want) {
				t.Errorf("A %v", r.A)
			}
		case *dnsmessage.AAAAResource:
			if !bytes.Equal(r.AAAA[:], test.want) {
				t.Errorf("AAAA %v", r.AAAA)
			}
		}
	}
}
