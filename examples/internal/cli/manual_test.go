package cli

import (
	"bytes"
	"flag"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func documented() *flag.FlagSet {
	fs := Flags("tool", io.Discard)
	fs.String("config", "wg0.conf", "configuration, a `file`\n.that 'matters'")
	fs.Duration("life", time.Minute, "`time` of [a thing]: long")
	fs.Bool("v", false, "log")
	return fs
}

func TestManual(t *testing.T) {
	var page bytes.Buffer
	if !Document(documented(), []string{"-man"}, "does things", &page) {
		t.Fatal("no manual page")
	}
	for _, want := range []string{".TH TOOL 1", "tool \\- does things\n", "\\fB\\-config\\fR \\fIfile\\fR\nconfiguration, a file\n\\&.that", "The default is 1m0s.\n", "\\fB\\-v\\fR\nlog\n"} {
		if !strings.Contains(page.String(), want) {
			t.Errorf("no %q in\n%s", want, &page)
		}
	}
	if _, err := exec.LookPath("man"); err == nil {
		file := filepath.Join(t.TempDir(), "tool.1")
		if err := os.WriteFile(file, page.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", file)
		var warnings bytes.Buffer
		cmd.Stderr = &warnings
		if err := cmd.Run(); err == nil && warnings.Len() > 0 {
			t.Errorf("man says:\n%s", &warnings)
		}
	}
	for _, args := range [][]string{{}, {"man"}, {"-man", "x"}, {"-completion"}, {"-completion", "tcsh"}, {"-v"}} {
		if Document(documented(), args, "", io.Discard) {
			t.Errorf("%q is taken for a question", args)
		}
	}
}

// TestCompletion has each shell that is there read its script.
func TestCompletion(t *testing.T) {
	for shell, want := range map[string]string{"bash": "-config -life", "zsh": "'-life[time of (a thing)\\: long]:time:_files'", "fish": "complete -c tool -o config -r -d 'configuration, a file"} {
		var script bytes.Buffer
		if !Document(documented(), []string{"-completion", shell}, "", &script) || !strings.Contains(script.String(), want) {
			t.Errorf("%s:\n%s\nwant %s", shell, &script, want)
		}
		if _, err := exec.LookPath(shell); err != nil {
			continue
		}
		file := filepath.Join(t.TempDir(), "script")
		if err := os.WriteFile(file, script.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command(shell, "-n", file).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", shell, err, out)
		}
	}
}
