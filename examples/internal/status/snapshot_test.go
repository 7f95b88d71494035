package status

import (
	"encoding/json"
	"testing"
)

func TestStatusJSON(t *testing.T) {
	w := request(newServer(nil), loopback, "GET", "/status.json")
	var got snapshot
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Peers) != 2 || len(got.Connections) != 1 || len(got.Events) != 1 || !got.Ready || got.Open != 1 {
		t.Fatalf("got %s", w.Body)
	}
	p := got.Peers[0]
	if p.Endpoint != "192.0.2.1:51820" || p.Sent != 100 || p.Received != 200 || p.Dropped != 7 || p.RoundTrip != 0.025 || p.PathMTU != 1380 || *p.HandshakeAge < 59 || *p.HandshakeAge > 100 {
		t.Errorf("peer %+v", p)
	}
	if got.Peers[1].HandshakeAge != nil || got.Peers[1].Endpoint != "" {
		t.Errorf("silent peer %+v", got.Peers[1])
	}
	if len(got.Drops) != 1 || got.Drops[0] != (drops{"replay", 9}) {
		t.Errorf("drops %+v", got.Drops)
	}
	if c := got.Connections[0]; c.Client != "192.0.2.7" || c.Target != "<b>:80" || c.Sent != 3 || c.Received != 5 {
		t.Errorf("connection %+v", c)
	}
	if c := got.Choices; len(c) != 2 || c[0].Group != "0.0.0.0/0" || c[0].InUse || c[0].Cause != "silent" || *c[0].Age < 59 || !c[1].InUse || !c[1].Well {
		t.Errorf("choices %+v", c)
	}
	if e := got.Events[0]; e.Level != "warn" || e.Text != "dial failed: to host:1, refused" || e.Times != 1 {
		t.Errorf("event %+v", e)
	}
}
