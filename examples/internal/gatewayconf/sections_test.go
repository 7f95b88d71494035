package gatewayconf

import "testing"

func TestAddresses(t *testing.T) {
	for _, c := range []struct {
		text           string
		listen, target bool // whether it is valid as such
	}{
		{"127.0.0.1:1080", true, true},
		{"[::1]:65535", true, true},
		{"localhost:http", true, false}, // a target needs a number
		{":0", true, false},
		{":1080", true, true},
		{"unix:/run/x.sock", true, false},
		{"unix:", false, false},
		{"127.0.0.1", false, false},
		{"127.0.0.1:", false, false},
		{"127.0.0.1:65536", false, false},
		{"::1:80", false, false},
		{"", false, false},
	} {
		if _, err := checkListen(c.text); (err == nil) != c.listen {
			t.Errorf("listen on %q: %v", c.text, err)
		}
		if _, err := checkAddress(c.text, true); (err == nil) != c.target {
			t.Errorf("target %q: %v", c.text, err)
		}
	}
}

func TestPorts(t *testing.T) {
	for text, valid := range map[string][2]bool{ // as a port from 0, from 1
		"0": {true, false}, "1": {true, true}, "65535": {true, true},
		"65536": {false, false}, "-1": {false, false}, "http": {false, false}, "": {false, false},
	} {
		for least, want := range valid {
			if err := checkPort(text, uint64(least)); (err == nil) != want {
				t.Errorf("port %q from %d: %v", text, least, err)
			}
		}
	}
}
