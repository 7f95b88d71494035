package status

import (
	"bytes"
	"flag"
	"net/http"
	"strings"
	"testing"
)

func TestFlags(t *testing.T) {
	t.Setenv("INFO_PASSWORD", "secret")
	var f Flags
	fs := flag.NewFlagSet("", flag.ContinueOnError)
	f.Register(fs)
	if err := fs.Parse([]string{"-info", "127.0.0.1:0", "-info-user", "me"}); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	stop, err := f.Serve(t.Context(), newServer(nil), &out)
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	addr := strings.TrimSpace(strings.TrimPrefix(out.String(), "status on "))
	for password, want := range map[string]int{"secret": 200, "guess": 401} {
		r, err := http.NewRequest("GET", "http://"+addr+"/status.json", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.SetBasicAuth("me", password)
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("with password %q: %s", password, resp.Status)
		}
	}
	t.Setenv("INFO_PASSWORD", "")
	if _, err := f.Serve(t.Context(), newServer(nil), &out); err == nil {
		t.Error("served without the password")
	}
}
