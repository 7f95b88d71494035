package netstack

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

// The format of DNS messages (RFC 1035, section 4): what is asked, and which
// messages count as an answer.

// A query is a question to a server, with what a reply must repeat.
type query struct {
	message  []byte
	id       uint16
	question dnsmessage.Question
}

// parseReply returns the reply in b. ok is false if b is not a well-formed
// answer to q: it may be forged, so only one with the identifier and the
// question of q counts. Only records of the name that was asked for, or of its
// aliases, count.
func (q *query) parseReply(b []byte) (r reply, ok bool) {
	var p dnsmessage.Parser
	h, err := p.Start(b)
	if err != nil || !h.Response || h.ID != q.id {
		return r, false
	}
	asked, err := p.Question()
	if err == dnsmessage.ErrSectionDone && (h.RCode == dnsmessage.RCodeFormatError || h.RCode == dnsmessage.RCodeNotImplemented) {
		return reply{code: h.RCode}, true // it need not repeat a question that it did not understand
	}
	if err != nil || asked.Type != q.question.Type || asked.Class != q.question.Class || !sameName(asked.Name, q.question.Name) {
		return r, false
	}
	r = reply{code: h.RCode, truncated: h.Truncated}
	if h.Truncated || h.RCode != dnsmessage.RCodeSuccess {
		return r, true
	}
	if err := p.SkipAllQuestions(); err != nil {
		return r, false
	}
	answers, err := p.AllAnswers()
	if err != nil {
		return r, false
	}
	// Follow the aliases, which may come in any order.
	name := q.question.Name
	for range maxCNAMEs {
		alias := false
		for i := range answers {
			a := &answers[i]
			if a.Header.Class != dnsmessage.ClassINET || !sameName(a.Header.Name, name) {
				continue
			}
			switch body := a.Body.(type) {
			case *dnsmessage.AResource:
				if q.question.Type == dnsmessage.TypeA {
					r.addrs = append(r.addrs, netip.AddrFrom4(body.A))
				}
			case *dnsmessage.AAAAResource:
				if q.question.Type == dnsmessage.TypeAAAA {
					r.addrs = append(r.addrs, netip.AddrFrom16(body.AAAA).Unmap())
				}
			case *dnsmessage.CNAMEResource:
				if !alias {
					alias, name = true, body.CNAME
				}
			}
		}
		if !alias || len(r.addrs) > 0 {
			break
		}
	}
	return r, true
}

// newQuery returns a query with a random identifier.
func newQuery(name string, typ dnsmessage.Type, edns bool) (*query, error) {
	n, err := dnsmessage.NewName(name)
	if err != nil {
		return nil, errNoSuchHost
	}
	q := &query{id: uint16(rand.Uint32()), question: dnsmessage.Question{Name: n, Type: typ, Class: dnsmessage.ClassINET}}
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{ID: q.id, RecursionDesired: true})
	err = b.StartQuestions()
	if err == nil {
		err = b.Question(q.question)
	}
	if err == nil && edns {
		var rh dnsmessage.ResourceHeader
		err = errors.Join(rh.SetEDNS0(dnsUDPSize, dnsmessage.RCodeSuccess, false), b.StartAdditionals(),
			b.OPTResource(rh, dnsmessage.OPTResource{}))
	}
	if err != nil {
		return nil, err
	}
	q.message, err = b.Finish()
	return q, err
}

// A reply is the content of an answer.
type reply struct {
	code      dnsmessage.RCode
	truncated bool
	addrs     []netip.Addr
}

// sameName compares names as DNS does, ignoring case.
func sameName(a, b dnsmessage.Name) bool { return strings.EqualFold(a.String(), b.String()) }
