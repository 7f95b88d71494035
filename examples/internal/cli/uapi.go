package cli

import (
	"log/slog"

	"github.com/wgstack/wireguard"
)

// ServeUAPI lets the WireGuard tools configure the device until stop is called.
// It calls cancel when its socket is deleted, which asks a daemon to end.
func ServeUAPI(dev *wireguard.Device, name string, cancel func(), log *slog.Logger) (stop func() error, err error) {
	l, err := wireguard.ListenUAPI(name)
	if err != nil {
		return nil, err
	}
	go func() {
		defer cancel()
		if err := dev.ServeUAPI(l); err != nil {
			log.Error("configuration protocol", "err", err)
		}
	}()
	return l.Close, nil
}
