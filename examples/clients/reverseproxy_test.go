package clients

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
)

func TestReverseProxy(t *testing.T) {
	near, far := newTunnel(t, "app.internal. 60 IN A 10.0.0.2")
	app := http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s for %s", r.URL.Path, r.Header.Get("X-Forwarded-For"))
	})}
	go app.Serve(listen(t, far, ":8080"))

	target, err := url.Parse("http://app.internal:8080/base")
	if err != nil {
		t.Fatal(err)
	}
	front := httptest.NewServer(ReverseProxy(near, target)) // on loopback of the host
	defer front.Close()
	if got, want := get(t, front.Client(), front.URL+"/page"), "/base/page for 127.0.0.1"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
