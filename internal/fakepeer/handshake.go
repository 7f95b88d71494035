package fakepeer

// A Handshake is what either side keeps between the initiation and the session.
// Methods do not change a Handshake passed to them, so it may be used again.
type Handshake struct {
	Index       uint32   // our own
	RemoteIndex uint32   // known to the responder
	MAC1        [16]byte // of the initiation that was sent or consumed

	noise noise
}

// InitiationOptions are the choices in an initiation. Zero fields are chosen at
// random or from the clock.
type InitiationOptions struct {
	Index     uint32
	Ephemeral [32]byte // private
	// EphemeralPublic is sent instead of Ephemeral's public key. It must be a
	// low-order point.
	EphemeralPublic [32]byte
	Timestamp       [12]byte // by default from the clock, and increasing
}

// Initiation returns an initiation and the state that its response needs.
func (p *Peer) Initiation(o InitiationOptions) (msg []byte, hs *Handshake) {
	if o.Timestamp == [12]byte{} {
		o.Timestamp = p.timestamp()
	}
	hs = &Handshake{
		Index: p.index(o.Index),
		noise: noise{s: p.static(), e: p.ephemeral(o.Ephemeral, o.EphemeralPublic), rs: p.Remote, psk: p.PSK},
	}
	hs.noise.begin(identifier, p.Remote)
	msg = append(header(Initiation, hs.Index), hs.noise.writeFirst(o.Timestamp[:])...)
	msg = p.Stamp(append(msg, make([]byte, 32)...))
	hs.MAC1 = MAC1(msg)
	return msg, hs
}

// InitiationInfo is the content of an initiation.
type InitiationInfo struct {
	Index     uint32 // the sender's
	Ephemeral [32]byte
	Static    [32]byte
	Timestamp [12]byte
	MAC2      [16]byte // not verified; see [VerifyMAC2]
}

// ConsumeInitiation opens an initiation sent to p by any peer. It compares
// neither the static key with [Peer.Remote] nor the timestamp with earlier
// ones. It fails with ErrMalformed, ErrMAC1 or ErrSeal.
func (p *Peer) ConsumeInitiation(msg []byte) (*Handshake, InitiationInfo, error) {
	switch {
	case KindOf(msg) != Initiation:
		return nil, InitiationInfo{}, ErrMalformed
	case !verifyMAC1(msg, p.static().public):
		return nil, InitiationInfo{}, ErrMAC1
	}
	hs := &Handshake{RemoteIndex: Sender(msg), MAC1: MAC1(msg), noise: noise{s: p.static(), psk: p.PSK}}
	hs.noise.begin(identifier, hs.noise.s.public)
	stamp, err := hs.noise.readFirst(msg[8:116])
	if err != nil {
		return nil, InitiationInfo{}, err
	}
	return hs, InitiationInfo{
		Index:     hs.RemoteIndex,
		Ephemeral: hs.noise.re,
		Static:    hs.noise.rs,
		Timestamp: [12]byte(stamp),
		MAC2:      MAC2(msg),
	}, nil
}

// ResponseOptions are the choices in a response. Zero fields are chosen at
// random.
type ResponseOptions struct {
	Index     uint32
	Ephemeral [32]byte // private
	// EphemeralPublic is sent instead of Ephemeral's public key. It must be a
	// low-order point.
	EphemeralPublic [32]byte
}

// Response returns a response to a consumed initiation, and its session. Each
// call makes another response and session.
func (p *Peer) Response(hs *Handshake, o ResponseOptions) (msg []byte, s *Session) {
	n := hs.noise
	n.psk = p.PSK
	n.e = p.ephemeral(o.Ephemeral, o.EphemeralPublic)
	index := p.index(o.Index)
	msg = append(header(Response, index, hs.RemoteIndex), n.writeSecond(nil)...)
	msg = writeMACs(append(msg, make([]byte, 32)...), n.rs, p.Cookie)
	s = &Session{LocalIndex: index, RemoteIndex: hs.RemoteIndex}
	s.RecvKey, s.SendKey = n.split()
	return msg, s
}

// ConsumeResponse opens the response to an initiation of p.
func (p *Peer) ConsumeResponse(hs *Handshake, msg []byte) (*Session, error) {
	switch {
	case KindOf(msg) != Response:
		return nil, ErrMalformed
	case !verifyMAC1(msg, p.static().public):
		return nil, ErrMAC1
	case Receiver(msg) != hs.Index:
		return nil, ErrIndex
	}
	n := hs.noise
	if _, err := n.readSecond(msg[12:60]); err != nil {
		return nil, err
	}
	s := &Session{LocalIndex: hs.Index, RemoteIndex: Sender(msg), Initiator: true}
	s.SendKey, s.RecvKey = n.split()
	return s, nil
}
