package main

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"testing"
)

func TestReadServerName(t *testing.T) {
	a, b := net.Pipe()
	go tls.Client(a, &tls.Config{ServerName: "intranet.example"}).Handshake()
	name, read, err := readServerName(b)
	a.Close()
	if name != "intranet.example" || err != nil {
		t.Fatalf("name %q, %v", name, err)
	}
	// What was read is the whole message.
	if again, _, err := readServerName(bytes.NewReader(read)); again != name || err != nil {
		t.Errorf("name %q, %v from what was read", again, err)
	}
	for _, bad := range []string{"", "GET / HTTP/1.1\r\n\r\n", string(read[:len(read)-1])} {
		if name, _, err := readServerName(bytes.NewReader([]byte(bad))); err == nil || errors.Is(err, errHelloRead) {
			t.Errorf("%q: name %q, %v", bad[:min(8, len(bad))], name, err)
		}
	}
	a, b = net.Pipe()
	go tls.Client(a, &tls.Config{InsecureSkipVerify: true}).Handshake()
	if name, _, err := readServerName(b); err == nil {
		t.Errorf("no name is %q", name)
	}
	a.Close()
	io.Copy(io.Discard, b)
}
