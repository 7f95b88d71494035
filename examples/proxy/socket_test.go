package main

import (
	"errors"
	"net"
	"testing"
)

// TestSocketOutlivesItsFronts hands a socket from one listener to the next, as a
// reload does.
func TestSocketOutlivesItsFronts(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := newSocket(l)
	first := s.front()
	first.Close()
	if _, err := first.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept of a closed front: %v", err)
	}
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatalf("the socket closed with its front: %v", err)
	}
	defer c.Close()
	second := s.front()
	in, err := second.Accept()
	if err != nil {
		t.Fatal(err)
	}
	in.Close()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := second.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept of a closed socket: %v", err)
	}
}
