package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"net/http"
	"testing"
)

// TestSum checks the bytes of the demonstration against a digest made by
// another implementation: openssl enc -aes-128-ctr.
func TestSum(t *testing.T) {
	var b bytes.Buffer
	if err := writeBytes(&b, 1000003); err != nil {
		t.Fatal(err)
	}
	const want = "bc1be9b86f5d9bd4bd68c3b5415edd5721272d436418518b9795f721f86bf18d"
	if got := fmt.Sprintf("%x", sha256.Sum256(b.Bytes())); b.Len() != 1000003 || got != want {
		t.Errorf("%d bytes of digest %s, want %s", b.Len(), got, want)
	}
}

func TestBytesErrors(t *testing.T) {
	addr, _ := startGateway(t, "-demo")
	c := httpClient(t, addr, nil)
	for path, want := range map[string]int{
		"/bytes/x":    http.StatusBadRequest,
		"/bytes/-1":   http.StatusBadRequest,
		"/bytes/0":    http.StatusOK,
		"/else":       http.StatusNotFound,
		"/bytes/1e10": http.StatusBadRequest,
	} {
		resp, err := c.Get("http://demo.wg" + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("GET %s: %s, want %d", path, resp.Status, want)
		}
	}
}
