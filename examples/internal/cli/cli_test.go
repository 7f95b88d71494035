package cli

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "wg.conf")
	if err := os.WriteFile(path, []byte("[Interface]\nAddress = 10.0.0.1/24\nPostUp = one\nPostUp = two\nPreDown = three\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	cfg, err := Load(path, Logger(&log, false))
	if err != nil || len(cfg.Address) != 1 || cfg.Logger == nil {
		t.Fatalf("%+v, %v", cfg, err)
	}
	for _, want := range []string{"not run", "PostUp PreDown"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("logged %q, want %q in it", &log, want)
		}
	}

	if err := os.WriteFile(path, []byte("[Interface]\nColour = blue\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path, Logger(&log, false)); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("error %v does not name the file", err)
	}
}

func TestParse(t *testing.T) {
	for _, test := range []struct {
		args []string
		want error
	}{
		{[]string{"-x", "a"}, nil},
		{[]string{"-x"}, errUsage},
		{nil, errUsage},
		{[]string{"a", "b"}, errUsage},
		{[]string{"-nonsense", "a"}, errUsage},
		{[]string{"-h"}, flag.ErrHelp},
	} {
		var out bytes.Buffer
		fs := Flags("program", &out)
		fs.Bool("x", false, "")
		if err := Parse(fs, test.args, 1); err != test.want {
			t.Errorf("%q: %v, want %v", test.args, err, test.want)
		}
		lines := strings.Count(out.String(), "\n")
		if (lines > 0) != (test.want != nil) || test.want == errUsage && lines != 1 {
			t.Errorf("%q: said %q", test.args, &out)
		}
	}
}
