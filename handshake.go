package wireguard

import (
	"crypto/ecdh"

	"golang.org/x/crypto/chacha20poly1305"
)

// The handshake, whitepaper sections 5.4.2 and 5.4.3, as functions from bytes
// to bytes and a verdict. {x} is a payload sealed under the latest key.
//
//	Noise_IKpsk2:
//	  <- s
//	  ...
//	  -> e, es, s, ss, {timestamp}
//	  <- e, ee, se, psk, {}

// identity is a device's static key pair with what is derived from it. It
// never changes once published.
type identity struct {
	private PrivateKey       // guarded by Device.mu; cleared when the device has another identity
	key     *ecdh.PrivateKey // private, ready for use
	public  PublicKey
	checker cookieChecker
}

func newIdentity(private PrivateKey) *identity {
	id := &identity{private: private, key: private.key()}
	id.public = PublicKey(id.key.PublicKey().Bytes())
	id.checker.init(id.public)
	return id
}

// staticSecret is the shared secret of the two static keys, the ss token. It
// is the same in every handshake of two peers, so it is cached.
type staticSecret [32]byte

func (id *identity) computeStaticSecret(remote *PublicKey) (ss staticSecret, err error) {
	shared, err := dh(id.key, remote)
	if err != nil {
		return ss, err
	}
	copy(ss[:], shared)
	clear(shared)
	return ss, nil
}

// transportKeys are what a handshake yields, seen from one side.
type transportKeys struct {
	send, receive [chacha20poly1305.KeySize]byte
}

func (k *transportKeys) erase() { *k = transportKeys{} }

// initiator is the state between sending an initiation and consuming its
// response.
type initiator struct {
	state     symmetricState
	self      *identity
	ephemeral *ecdh.PrivateKey
	index     uint32 // ours, the initiation's sender
}

func (i *initiator) erase() {
	i.state = symmetricState{}
	i.ephemeral = nil
}

// newInitiation makes an initiation without MACs.
func newInitiation(self *identity, remote PublicKey, ss *staticSecret, ephemeral PrivateKey, sender uint32, stamp tai64n) (*[initiationSize]byte, *initiator, error) {
	i := &initiator{state: wireguardState, self: self, ephemeral: ephemeral.key(), index: sender}
	s := &i.state
	msg := initiation{sender: sender}
	// <- s
	s.mixHash(remote[:])
	// e
	msg.ephemeral = PublicKey(i.ephemeral.PublicKey().Bytes())
	s.mixHash(msg.ephemeral[:])
	s.mixKey(msg.ephemeral[:])
	// es
	key, err := s.mixDH(i.ephemeral, &remote)
	if err != nil {
		return nil, nil, err
	}
	// s
	s.sealHash(msg.static[:0], &key, self.public[:])
	// ss
	key = s.mixCipherKey(ss[:])
	// {timestamp}
	s.sealHash(msg.timestamp[:0], &key, stamp[:])
	clear(key[:])
	b := msg.marshal()
	return &b, i, nil
}

// consumeResponse consumes the response to the initiation and returns the keys.
// It does not change i, so that a forged response leaves the handshake intact.
func (i *initiator) consumeResponse(b []byte, psk *PresharedKey) (keys transportKeys, remoteIndex uint32, err error) {
	var msg response
	msg.parse(b)
	s := i.state
	// e
	s.mixHash(msg.ephemeral[:])
	s.mixKey(msg.ephemeral[:])
	// ee
	if _, err = s.mixDH(i.ephemeral, &msg.ephemeral); err != nil {
		return keys, 0, err
	}
	// se
	if _, err = s.mixDH(i.self.key, &msg.ephemeral); err != nil {
		return keys, 0, err
	}
	// psk
	key := s.mixPSK(psk)
	// {}
	if _, err = s.openHash(nil, &key, msg.empty[:]); err != nil {
		return keys, 0, err
	}
	keys.send, keys.receive = s.split()
	s = symmetricState{}
	clear(key[:])
	return keys, msg.sender, nil
}

// responder is the state while an initiation is consumed and answered.
type responder struct {
	state       symmetricState
	msg         initiation
	remote      PublicKey // the initiator's static key
	remoteIndex uint32
}

func (r *responder) erase() { r.state = symmetricState{} }

// consumeStatic consumes an initiation up to the initiator's static key, which
// identifies the sender.
func (r *responder) consumeStatic(self *identity, b []byte) error {
	r.msg.parse(b)
	r.remoteIndex = r.msg.sender
	r.state = wireguardState
	s := &r.state
	// <- s
	s.mixHash(self.public[:])
	// e
	s.mixHash(r.msg.ephemeral[:])
	s.mixKey(r.msg.ephemeral[:])
	// es
	key, err := s.mixDH(self.key, &r.msg.ephemeral)
	if err != nil {
		return err
	}
	// s
	_, err = s.openHash(r.remote[:0], &key, r.msg.static[:])
	clear(key[:])
	return err
}

// consumeTimestamp consumes the rest of the initiation.
func (r *responder) consumeTimestamp(ss *staticSecret) (stamp tai64n, err error) {
	s := &r.state
	// ss
	key := s.mixCipherKey(ss[:])
	// {timestamp}
	_, err = s.openHash(stamp[:0], &key, r.msg.timestamp[:])
	clear(key[:])
	return stamp, err
}

// newResponse makes the response, without MACs, and the transport keys.
func (r *responder) newResponse(psk *PresharedKey, ephemeral PrivateKey, sender uint32) (*[responseSize]byte, transportKeys, error) {
	var keys transportKeys
	s := &r.state
	msg := response{sender: sender, receiver: r.remoteIndex}
	// e
	key := ephemeral.key()
	msg.ephemeral = PublicKey(key.PublicKey().Bytes())
	s.mixHash(msg.ephemeral[:])
	s.mixKey(msg.ephemeral[:])
	// ee
	if _, err := s.mixDH(key, &r.msg.ephemeral); err != nil {
		return nil, keys, err
	}
	// se
	if _, err := s.mixDH(key, &r.remote); err != nil {
		return nil, keys, err
	}
	// psk
	last := s.mixPSK(psk)
	// {}
	s.sealHash(msg.empty[:0], &last, nil)
	keys.receive, keys.send = s.split()
	clear(last[:])
	clear(ephemeral[:])
	b := msg.marshal()
	return &b, keys, nil
}
