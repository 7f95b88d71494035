package main

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/wgstack/wireguard/examples/internal/cli"
)

// TestPackaging checks that the commands in the files for service managers and
// containers have flags of the program.
func TestPackaging(t *testing.T) {
	fs := cli.Flags("proxy", t.Output())
	new(options).register(fs)
	command := regexp.MustCompile(`(?m)(?:/wgproxy|^command_args=|\$command|t wgproxy|:ro,Z .* wgproxy)"? ?"?(-.*)$`)
	for name, want := range map[string]int{"wgproxy.service": 5, "wgproxy.openrc": 5, "Containerfile": 2} { // flags
		text, err := os.ReadFile("packaging/" + name)
		if err != nil {
			t.Fatal(err)
		}
		got := 0
		for _, m := range command.FindAllStringSubmatch(string(text), -1) {
			for _, word := range strings.Fields(m[1]) {
				flag, ok := strings.CutPrefix(strings.TrimLeft(word, `"`), "-")
				if !ok {
					continue
				}
				got++
				if fs.Lookup(flag) == nil {
					t.Errorf("%s: there is no flag -%s", name, flag)
				}
			}
		}
		if got < want {
			t.Errorf("%s: %d flags found, want %d", name, got, want)
		}
	}
	if sh, err := exec.LookPath("sh"); err == nil {
		if out, err := exec.Command(sh, "-n", "packaging/wgproxy.openrc").CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	}
}
