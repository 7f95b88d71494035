package wireguard

import (
	"errors"
	"strings"
	"testing"
)

func TestNewNeedsListenPacketWithoutSockets(t *testing.T) {
	_, err := New(Config{PrivateKey: NewPrivateKey()})
	if !errors.Is(err, errors.ErrUnsupported) || !strings.Contains(err.Error(), "Config.ListenPacket is required") {
		t.Errorf("error %v", err)
	}
}
