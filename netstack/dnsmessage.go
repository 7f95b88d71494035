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
	edns     bool
}

// newQuery returns a query with a random identifier.
func newQuery(question dnsmessage.Question, edns bool) (*query, error) {
	q := &query{id: uint16(rand.Uint32()), question: question, edns: edns}
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{ID: q.id, RecursionDesired: true})
	err := b.StartQuestions()
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

// A reply is an answer to a query.
type reply struct {
	message   []byte
	query     *query
	code      dnsmessage.RCode
	truncated bool
	lame      bool // neither has answers nor comes from a server that could have any
	answers   []dnsmessage.Resource
}

// parseReply returns the reply in b, which it keeps. ok is false if b is not a
// well-formed answer to q: it may be forged, so only one with the identifier and
// the question of q counts. An error need not repeat the question.
func (q *query) parseReply(b []byte) (r reply, ok bool) {
	var p dnsmessage.Parser
	h, err := p.Start(b)
	if err != nil || !h.Response || h.ID != q.id {
		return r, false
	}
	r = reply{message: b, query: q, code: h.RCode, truncated: h.Truncated}
	asked, err := p.Question()
	if err == dnsmessage.ErrSectionDone && h.RCode != dnsmessage.RCodeSuccess {
		return r, true
	}
	if err != nil || asked.Type != q.question.Type || asked.Class != q.question.Class || !sameName(asked.Name, q.question.Name) {
		return r, false
	}
	if h.RCode != dnsmessage.RCodeSuccess {
		return r, true
	}
	if err := p.SkipAllQuestions(); err != nil {
		return r, h.Truncated
	}
	if r.answers, err = p.AllAnswers(); err != nil {
		return r, h.Truncated
	}
	r.lame = len(r.answers) == 0 && !h.Truncated && !h.Authoritative && !h.RecursionAvailable
	return r, true
}

// refusesEDNS reports whether r may be due to the EDNS(0) of its query.
func (r *reply) refusesEDNS() bool {
	switch r.code {
	case dnsmessage.RCodeFormatError, dnsmessage.RCodeNotImplemented, dnsmessage.RCodeRefused:
		return true
	}
	return false
}

// addresses returns the addresses in an answer. Only records of the name that
// was asked for, or of its aliases, count.
func (r *reply) addresses() (addrs []netip.Addr) {
	// Follow the aliases, which may come in any order.
	question := &r.query.question
	name := question.Name
	for range maxCNAMEs {
		alias := false
		for i := range r.answers {
			a := &r.answers[i]
			if a.Header.Class != dnsmessage.ClassINET || !sameName(a.Header.Name, name) {
				continue
			}
			switch body := a.Body.(type) {
			case *dnsmessage.AResource:
				if question.Type == dnsmessage.TypeA {
					addrs = append(addrs, netip.AddrFrom4(body.A))
				}
			case *dnsmessage.AAAAResource:
				if question.Type == dnsmessage.TypeAAAA {
					addrs = append(addrs, netip.AddrFrom16(body.AAAA).Unmap())
				}
			case *dnsmessage.CNAMEResource:
				if !alias {
					alias, name = true, body.CNAME
				}
			}
		}
		if !alias || len(addrs) > 0 {
			break
		}
	}
	return addrs
}

// sameName compares names as DNS does, ignoring case.
func sameName(a, b dnsmessage.Name) bool { return strings.EqualFold(a.String(), b.String()) }
