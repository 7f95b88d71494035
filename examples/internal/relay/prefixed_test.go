package relay

import (
	"errors"
	"io"
	"strings"
	"syscall"
	"testing"
)

// TestPrefixed checks that a prefixed connection is still one that can be ended
// in one direction, and reset.
func TestPrefixed(t *testing.T) {
	a, b := pair(t)
	p := Prefixed(a, io.MultiReader(strings.NewReader("pre"), a))
	b.Write([]byte("fix"))
	got := make([]byte, 6)
	if _, err := io.ReadFull(p, got); string(got) != "prefix" || err != nil {
		t.Errorf("read %q, %v", got, err)
	}
	p.(interface{ CloseWrite() error }).CloseWrite()
	if n, err := b.Read(got); err != io.EOF {
		t.Errorf("after CloseWrite: read %d, %v; want EOF", n, err)
	}

	a, b = pair(t)
	Reset(Prefixed(a, a))
	if n, err := b.Read(got); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("after a reset: read %d, %v; want ECONNRESET", n, err)
	}
	a, b = pair(t)
	Reset(b)
	for {
		if _, err := a.Write([]byte("x")); err != nil {
			break
		}
	}
	if isHungUp(a) != isHungUp(Prefixed(a, a)) {
		t.Error("a prefixed connection hides the reset of its connection")
	}
}
