package main

// noteWait says that a client waits for the first handshake, with a peer that has
// not answered, if none has. It is one line a minute for all clients.
func (g *gateway) noteWait(address string) {
	var waiting []any
	for _, p := range g.dev.Stats().Peers {
		if p.SessionAge > 0 {
			return
		}
		if p.Handshakes.Started > 0 {
			waiting = []any{"to", address, "peer", p.PublicKey, "endpoint", p.Endpoint}
		}
	}
	if waiting != nil {
		g.warnings.Warn("handshake", "waiting for the first handshake", waiting...)
	}
}
