package main

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/net/proxy"
)

func TestAuthentication(t *testing.T) {
	t.Setenv("SOCKS_PASSWORD", "secret")
	addr, _ := startGateway(t, "-demo", "-user", "me")
	get(t, httpClient(t, addr, &proxy.Auth{User: "me", Password: "secret"}), "http://demo.wg/")
	for _, auth := range []*proxy.Auth{nil, {User: "me", Password: "guess"}, {User: "you", Password: "secret"}, {User: "me", Password: "secret2"}} {
		if resp, err := httpClient(t, addr, auth).Get("http://demo.wg/"); err == nil {
			resp.Body.Close()
			t.Errorf("%+v was accepted", auth)
		}
	}
}

func TestPasswordFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte("from a file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	password, err := readPassword("me", "SOCKS_PASSWORD", "-password-file", file)
	if err != nil {
		t.Fatal(err)
	}
	if check := authenticator("me", password); !check("me", "from a file") || check("me", "from a file\n") || check("you", "from a file") {
		t.Error("the password of the file is not accepted, or another is")
	}
}
