package clients

import (
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

func TestNATSConn(t *testing.T) {
	near, far := newTunnel(t, "nats.internal. 60 IN A 10.0.0.2")
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	go s.Start()
	defer s.Shutdown()
	if !s.ReadyForConnections(waitLimit) {
		t.Fatal("the server does not start")
	}
	forward(t, far, ":4222", "tcp", s.Addr().String())

	conn, err := NATSConn(near, "nats://nats.internal:4222", nats.Timeout(waitLimit))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Subscribe("echo", func(m *nats.Msg) { m.Respond(m.Data) }); err != nil {
		t.Fatal(err)
	}
	answer, err := conn.Request("echo", []byte("hello"), waitLimit)
	if err != nil || string(answer.Data) != "hello" {
		t.Errorf("%v, %v", answer, err)
	}
}
