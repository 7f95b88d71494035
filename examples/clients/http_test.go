package clients

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"testing"
)

func TestHTTPClient(t *testing.T) {
	near, far := newTunnel(t, "web.internal. 60 IN A 10.0.0.2", "web.internal. 60 IN AAAA fd00::2")
	server := http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s", r.Host, r.URL.Path)
	})}
	go server.Serve(listen(t, far, ":80"))

	client := HTTPClient(near)
	for url, want := range map[string]string{
		"http://web.internal/a": "web.internal /a",
		"http://10.0.0.2/b":     "10.0.0.2 /b",
		"http://[fd00::2]/c":    "[fd00::2] /c",
	} {
		if got := get(t, client, url); got != want {
			t.Errorf("GET %s: %q, want %q", url, got, want)
		}
	}
}

// TestHTTPShutdown shows that an answer that was in progress when the server was
// told to stop arrives whole, although the device is closed at once afterwards.
func TestHTTPShutdown(t *testing.T) {
	near, far := newTunnel(t)
	body := bytes.Repeat([]byte("0123456789abcdef"), 1<<16) // 1 MiB
	ctx, stop := context.WithCancel(t.Context())
	handler := func(w http.ResponseWriter, r *http.Request) {
		stop()
		w.Write(body)
	}
	served := make(chan error, 1)
	l := listen(t, far, ":80")
	go func() {
		err := ServeHTTP(ctx, l, http.HandlerFunc(handler))
		far.Close()
		served <- err
	}()
	if got := get(t, HTTPClient(near), "http://10.0.0.2/"); got != string(body) {
		t.Errorf("%d bytes arrived, want %d", len(got), len(body))
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// get returns the body of a successful answer.
func get(t *testing.T, client *http.Client, url string) string {
	t.Helper()
	defer client.CloseIdleConnections()
	request, err := http.NewRequestWithContext(limited(t), "GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("GET %s: %s, %v", url, resp.Status, err)
	}
	return string(body)
}
