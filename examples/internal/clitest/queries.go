package clitest

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

const queriesPerSecond = 100

// SendQueries sends queries for the IPv4 address of a name, a hundred a second,
// and fails the test for those without an answer. Each has a connection of its
// own, which dial makes, and is sent three times at most, as by dig. They take two
// seconds, or a minute if the variable [Long] is set.
func SendQueries(t *testing.T, name string, dial func() (net.Conn, error)) {
	t.Helper()
	queries := 2 * queriesPerSecond
	if os.Getenv(Long) != "" {
		queries = 60 * queriesPerSecond
	}
	var pending sync.WaitGroup
	failed := make(chan error, queries)
	start := time.Now()
	tick := time.NewTicker(time.Second / queriesPerSecond)
	defer tick.Stop()
	for i := range queries {
		<-tick.C
		pending.Go(func() {
			if err := query(dial, name, uint16(i)); err != nil {
				failed <- fmt.Errorf("query %d: %w", i, err)
			}
		})
	}
	pending.Wait()
	t.Logf("%d queries in %v", queries, time.Since(start))
	if n := len(failed); n > 0 {
		t.Errorf("%d of %d queries are not answered, such as %v", n, queries, <-failed)
	}
}

// query asks for an address until it has the answer.
func query(dial func() (net.Conn, error), name string, id uint16) error {
	n, err := dnsmessage.NewName(name)
	if err != nil {
		return err
	}
	message := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: id, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: n, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}},
	}
	question, err := message.Pack()
	if err != nil {
		return err
	}
	c, err := dial()
	if err != nil {
		return err
	}
	defer c.Close()
	b := make([]byte, 512)
	for range 3 {
		c.SetDeadline(time.Now().Add(5 * time.Second))
		if _, err = c.Write(question); err != nil {
			continue
		}
		var size int
		if size, err = c.Read(b); err != nil {
			continue
		}
		var answer dnsmessage.Message
		if err := answer.Unpack(b[:size]); err != nil {
			return err
		}
		if answer.ID != id || len(answer.Answers) != 1 {
			return errors.New("the answer is to another query: " + answer.GoString())
		}
		return nil
	}
	return err
}

// ServeNames answers DNS queries for A records with an address until conn is
// closed.
func ServeNames(conn net.PacketConn, addr [4]byte) {
	for b := make([]byte, 4096); ; {
		n, from, err := conn.ReadFrom(b)
		if err != nil {
			return
		}
		var m dnsmessage.Message
		if m.Unpack(b[:n]) != nil || len(m.Questions) != 1 {
			continue
		}
		m.Response, m.Additionals = true, nil
		m.Answers = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: m.Questions[0].Name, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET},
			Body:   &dnsmessage.AResource{A: addr},
		}}
		if answer, err := m.Pack(); err == nil {
			conn.WriteTo(answer, from)
		}
	}
}
