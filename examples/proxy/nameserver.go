package main

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// maxUDPAnswer is the largest DNS message over UDP (RFC 1035).
const maxUDPAnswer = 512

// serveNames serves DNS over UDP.
func serveNames(pc net.PacketConn) {
	buf := make([]byte, 4096)
	for {
		n, from, err := pc.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		if answer, err := answerName(buf[:n]); err == nil && len(answer) <= maxUDPAnswer {
			pc.WriteTo(answer, from)
		}
	}
}

// serveNamesTCP serves DNS over TCP, where a length precedes each message.
func serveNamesTCP(l net.Listener, conns *sync.WaitGroup) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		conns.Go(func() {
			defer c.Close()
			for {
				c.SetDeadline(time.Now().Add(10 * time.Second))
				var length [2]byte
				if _, err := io.ReadFull(c, length[:]); err != nil {
					return
				}
				query := make([]byte, binary.BigEndian.Uint16(length[:]))
				if _, err := io.ReadFull(c, query); err != nil {
					return
				}
				answer, err := answerName(query)
				if err != nil {
					return
				}
				answer = append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...)
				if _, err := c.Write(answer); err != nil {
					return
				}
			}
		})
	}
}

// answerName returns the answer of a name server that knows demoName only.
func answerName(query []byte) ([]byte, error) {
	var p dnsmessage.Parser
	h, err := p.Start(query)
	if err != nil {
		return nil, err
	}
	if h.Response {
		return nil, errors.New("not a query")
	}
	q, err := p.Question()
	if err != nil {
		return nil, err
	}
	answer := dnsmessage.Header{
		ID:               h.ID,
		Response:         true,
		OpCode:           h.OpCode,
		Authoritative:    true,
		RecursionDesired: h.RecursionDesired,
	}
	known := strings.EqualFold(q.Name.String(), demoName+".")
	switch {
	case h.OpCode != 0:
		answer.RCode = dnsmessage.RCodeNotImplemented
	case q.Class != dnsmessage.ClassINET:
		answer.RCode = dnsmessage.RCodeRefused
	case !known:
		answer.RCode = dnsmessage.RCodeNameError
	}
	b := dnsmessage.NewBuilder(nil, answer)
	b.EnableCompression()
	if err := b.StartQuestions(); err != nil {
		return nil, err
	}
	if err := b.Question(q); err != nil {
		return nil, err
	}
	if err := b.StartAnswers(); err != nil {
		return nil, err
	}
	if answer.RCode == dnsmessage.RCodeSuccess {
		rh := dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 60}
		switch q.Type {
		case dnsmessage.TypeA:
			err = b.AResource(rh, dnsmessage.AResource{A: farAddr4.As4()})
		case dnsmessage.TypeAAAA:
			err = b.AAAAResource(rh, dnsmessage.AAAAResource{AAAA: farAddr6.As16()})
		}
		if err != nil {
			return nil, err
		}
	}
	return b.Finish()
}
