package main

import (
	"crypto/sha256"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"testing"
)

func TestDemo(t *testing.T) {
	addr, _ := startGateway(t, "-demo")
	c := httpClient(t, addr, nil)

	for url, from := range map[string][]netip.Addr{
		"http://demo.wg/":                     {nearAddr4, nearAddr6},
		"http://DEMO.wg/":                     {nearAddr4, nearAddr6},
		fmt.Sprintf("http://%s/", farAddr4):   {nearAddr4},
		fmt.Sprintf("http://[%s]/", farAddr6): {nearAddr6},
	} {
		page := string(get(t, c, url))
		ok := false
		for _, a := range from {
			ok = ok || strings.Contains(page, a.String())
		}
		if !ok {
			t.Errorf("GET %s: %q, want one of %v in it", url, page, from)
		}
	}

	const n = 5<<20 + 3
	resp, err := c.Get(fmt.Sprintf("http://demo.wg/bytes/%d", n))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	sum := fmt.Sprintf("%x", sha256.Sum256(got))
	if want := resp.Header.Get(checksumHeader); len(got) != n || sum != want {
		t.Errorf("%d bytes of checksum %q, want %d of %q", len(got), sum, n, want)
	}

	for _, url := range []string{
		"http://nowhere.wg/",                   // no such name
		fmt.Sprintf("http://%s:81/", farAddr4), // refused
		"http://192.0.2.1/",                    // no such peer
	} {
		if resp, err := c.Get(url); err == nil {
			resp.Body.Close()
			t.Errorf("GET %s: %s", url, resp.Status)
		}
	}
}
