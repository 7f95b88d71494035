//go:build unix

package relay

import (
	"net"
	"testing"
)

func TestIsHungUp(t *testing.T) {
	a, b := pair(t)
	if isHungUp(a) {
		t.Error("an open connection counts as reset")
	}
	b.CloseWrite()
	if _, err := a.Read(make([]byte, 1)); err == nil || isHungUp(a) {
		t.Errorf("a half-closed connection counts as reset (read: %v)", err)
	}
	Reset(b)
	a.Read(make([]byte, 1))
	for { // until the reset has arrived
		if _, err := a.Write([]byte("x")); err != nil {
			break
		}
	}
	if !isHungUp(a) {
		t.Error("a reset connection counts as open")
	}
	p, _ := net.Pipe()
	if isHungUp(p) {
		t.Error("a pipe counts as reset")
	}
}
