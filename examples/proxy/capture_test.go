package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

func TestCaptureFlags(t *testing.T) {
	dir := t.TempDir()
	file, keys := filepath.Join(dir, "tunnel.pcapng"), filepath.Join(dir, "keys")
	for _, name := range []string{file, keys} {
		if err := os.WriteFile(name, []byte("earlier\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	addr, end := startGateway(t, "-demo", "-capture", file, "-keylog", keys)
	get(t, httpClient(t, addr, nil), "http://demo.wg/")
	end()
	read := func(name string) []byte {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(name); err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, %v", name, info.Mode(), err)
		}
		return b
	}
	secrets := read(keys)
	if rest, ok := bytes.CutPrefix(secrets, []byte("earlier\nLOCAL_STATIC_PRIVATE_KEY = ")); !ok || !bytes.Contains(rest, []byte("LOCAL_EPHEMERAL_PRIVATE_KEY")) {
		t.Error("the key log was not appended to the file")
	}
	b := read(file)
	if !bytes.HasPrefix(b, []byte("\x0a\x0d\x0d\x0a")) || !bytes.Contains(b, []byte("LOCAL_EPHEMERAL_PRIVATE_KEY")) || !bytes.Contains(b, []byte("Host: demo.wg")) {
		t.Error("the capture has no secrets or no inner packets")
	}
}

func TestCaptureFileCannotBeOpened(t *testing.T) {
	for _, flag := range []string{"-capture", "-keylog"} {
		name := filepath.Join(t.TempDir(), "missing", "file")
		if err := run(t.Context(), []string{"-demo", flag, name}, io.Discard, io.Discard); err == nil {
			t.Errorf("%s: no error", flag)
		}
	}
}
