package netstack

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"slices"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// FuzzDNSAnswer reads what may come for an answer: as the answer to a question
// for A or AAAA records, whose ID is put in.
func FuzzDNSAnswer(f *testing.F) {
	const name = "www.example."
	question := func(typ dnsmessage.Type) dnsmessage.Question {
		return dnsmessage.Question{Name: dnsmessage.MustNewName(name), Type: typ, Class: dnsmessage.ClassINET}
	}
	add := func(v6 bool, m dnsmessage.Message) {
		m.Response = true
		b, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, v6)
		f.Add(b[:len(b)-1], v6)
		f.Add(append(b, 0), v6)
	}
	answer := func(name, data string) dnsmessage.Resource {
		return dnsmessage.Resource{
			Header: dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName(name), Class: dnsmessage.ClassINET}, Body: record(data),
		}
	}
	alias := func(name, to string) dnsmessage.Resource {
		return dnsmessage.Resource{
			Header: dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName(name), Class: dnsmessage.ClassINET},
			Body:   &dnsmessage.CNAMEResource{CNAME: dnsmessage.MustNewName(to)},
		}
	}
	a, aaaa := []dnsmessage.Question{question(dnsmessage.TypeA)}, []dnsmessage.Question{question(dnsmessage.TypeAAAA)}
	add(false, dnsmessage.Message{Questions: a})
	add(false, dnsmessage.Message{Questions: a, Answers: []dnsmessage.Resource{answer(name, "192.0.2.1"), answer("WWW.example.", "192.0.2.2")}})
	add(true, dnsmessage.Message{Questions: aaaa, Answers: []dnsmessage.Resource{answer(name, "2001:db8::1"), answer(name, "192.0.2.1")}})
	add(false, dnsmessage.Message{Questions: a, Answers: []dnsmessage.Resource{answer("b.", "192.0.2.3"), alias("a.", "b."), alias(name, "a.")}})
	add(true, dnsmessage.Message{Questions: aaaa, Answers: []dnsmessage.Resource{alias(name, "a."), alias("a.", name)}})
	add(false, dnsmessage.Message{Header: dnsmessage.Header{RCode: dnsmessage.RCodeFormatError}})
	add(false, dnsmessage.Message{Header: dnsmessage.Header{RCode: dnsmessage.RCodeNameError}, Questions: a})
	add(false, dnsmessage.Message{Header: dnsmessage.Header{Truncated: true}, Questions: a})
	add(true, dnsmessage.Message{Questions: a, Answers: []dnsmessage.Resource{answer(name, "192.0.2.1")}})
	f.Add([]byte(nil), false)
	f.Fuzz(func(t *testing.T, b []byte, v6 bool) {
		typ, size := dnsmessage.TypeA, 4
		if v6 {
			typ, size = dnsmessage.TypeAAAA, 16
		}
		q, err := newQuery(question(typ), true)
		if err != nil {
			t.Fatal(err)
		}
		b = bytes.Clone(b)
		if len(b) >= 2 {
			binary.BigEndian.PutUint16(b, q.id)
		}
		r, ok := q.parseReply(b)
		var m dnsmessage.Message
		whole := m.Unpack(b) == nil
		if !ok {
			if whole && m.Response && len(m.Questions) == 1 && m.Questions[0] == q.question {
				t.Fatalf("%v is no answer", &m)
			}
			return
		}
		// Of a reply without a question only the code counts.
		if whole && (!m.Response || r.code != m.RCode || len(m.Questions) > 0 && r.truncated != m.Truncated) {
			t.Fatalf("reply %+v of %v", r, &m)
		}
		got := r.addresses()
		if r.code != dnsmessage.RCodeSuccess && len(got) > 0 {
			t.Fatalf("addresses in %+v", r)
		}
		for _, addr := range got {
			raw := addr.As16()
			if !bytes.Contains(b, raw[16-size:]) {
				t.Fatalf("%v is not in %x", addr, b)
			}
		}
		direct := 0 // records of the very name
		for _, rr := range m.Answers {
			if rr.Header.Type == typ && rr.Header.Class == dnsmessage.ClassINET && sameName(rr.Header.Name, q.question.Name) {
				direct++
			}
		}
		if whole && r.code == dnsmessage.RCodeSuccess && !r.truncated && direct > 0 && len(got) != direct {
			t.Fatalf("%d addresses in %v, want %d", len(got), &m, direct)
		}
	})
}

// TestLookupForged sends all kinds of wrong answers before the right one.
func TestLookupForged(t *testing.T) {
	n := &nameServer{records: map[string][]dnsmessage.ResourceBody{"host.example.": {record("192.0.2.1")}}}
	n.intercept = func(q dnsmessage.Message, send func([]byte)) bool {
		forge := func(f func(m *dnsmessage.Message)) {
			m := dnsmessage.Message{Header: dnsmessage.Header{ID: q.ID, Response: true}, Questions: slices.Clone(q.Questions)}
			m.Answers = []dnsmessage.Resource{{
				Header: dnsmessage.ResourceHeader{Name: q.Questions[0].Name, Class: dnsmessage.ClassINET},
				Body:   record("203.0.113.66"),
			}}
			f(&m)
			b, err := m.Pack()
			if err != nil {
				panic(err)
			}
			send(b)
		}
		forge(func(m *dnsmessage.Message) { m.ID++ })
		forge(func(m *dnsmessage.Message) { m.Response = false })
		forge(func(m *dnsmessage.Message) { m.Questions = nil })
		forge(func(m *dnsmessage.Message) { m.Questions[0].Name = dnsmessage.MustNewName("other.example.") })
		forge(func(m *dnsmessage.Message) { m.Questions[0].Type = dnsmessage.TypeMX })
		forge(func(m *dnsmessage.Message) { m.Questions[0].Class = dnsmessage.ClassCHAOS })
		send([]byte{})
		send([]byte("garbage"))
		send(binary.BigEndian.AppendUint16(nil, q.ID))
		return true
	}
	p := joinDNS(t, n, nil)
	got, err := p.a.LookupNetIP(testContext(t), "ip4", "host.example")
	if err != nil || !slices.Equal(got, addrs("192.0.2.1")) {
		t.Errorf("LookupNetIP = %v, %v", got, err)
	}
}

// TestLookupUnrelated answers with records for a name that was not asked for.
func TestLookupUnrelated(t *testing.T) {
	n := &nameServer{}
	n.intercept = func(q dnsmessage.Message, send func([]byte)) bool {
		m := dnsmessage.Message{Header: dnsmessage.Header{ID: q.ID, Response: true}, Questions: q.Questions}
		m.Answers = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName("other.example."), Class: dnsmessage.ClassINET},
			Body:   record("203.0.113.66"),
		}, {
			Header: dnsmessage.ResourceHeader{Name: q.Questions[0].Name, Class: dnsmessage.ClassINET},
			Body:   alias(q.Questions[0].Name.String()), // a loop
		}}
		b, _ := m.Pack()
		send(b)
		return false
	}
	p := joinDNS(t, n, nil)
	got, err := p.a.LookupNetIP(testContext(t), "ip4", "host.example")
	var de *net.DNSError
	if !errors.As(err, &de) || !de.IsNotFound {
		t.Errorf("LookupNetIP = %v, %v, want not found", got, err)
	}
}
