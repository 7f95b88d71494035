package clitest

import (
	"context"
	"fmt"
	"io"
	"os"
	"testing"
)

func TestStart(t *testing.T) {
	ended := false
	program := func(ctx context.Context, args []string, stdout, stderr io.Writer) error {
		fmt.Fprintf(stdout, "starting\nready with %s\nmore\n", args[0])
		<-ctx.Done()
		ended = true
		return nil
	}
	match, end := Start(t, program, `^ready with (\w+)$`, "argument")
	if match[1] != "argument" {
		t.Errorf("matched %q", match)
	}
	end()
	if !ended {
		t.Error("the program still runs")
	}
	end() // once more does nothing
}

func TestFile(t *testing.T) {
	b, err := os.ReadFile(File(t, "one", "two"))
	if string(b) != "one\ntwo\n" || err != nil {
		t.Errorf("read %q, %v", b, err)
	}
}
