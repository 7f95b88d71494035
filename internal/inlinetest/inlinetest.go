// Package inlinetest checks that the compiler can inline functions.
package inlinetest

import (
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// Check fails t for each of functions that the compiler cannot inline in the
// package under test. A function is named as the compiler does, but without
// type parameters: messageType, clock.now, (*lane).push. Check compiles the
// package with the go command, and skips t where there is none or on a 32-bit
// system, where the same code costs more and fewer functions are inlined.
func Check(t *testing.T, functions ...string) {
	t.Helper()
	if strconv.IntSize < 64 {
		t.Skip("functions are chosen for 64-bit systems")
	}
	goCommand, err := exec.LookPath("go")
	if err != nil {
		t.Skipf("no go command to compile with: %v", err)
	}
	// A test runs in the directory of its package.
	out, err := exec.Command(goCommand, "build", "-gcflags=-m", ".").CombinedOutput()
	if err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	inlinable := parseInlinable(string(out))
	for _, f := range functions {
		if !inlinable[f] {
			t.Errorf("the compiler cannot inline %s (go build -gcflags=-m=2 tells why)", f)
		}
	}
}

var canInline = regexp.MustCompile(`(?m)^\S+: can inline (.*)$`)

// parseInlinable returns the functions that the compiler reports as inlinable.
func parseInlinable(out string) map[string]bool {
	inlinable := make(map[string]bool)
	for _, match := range canInline.FindAllStringSubmatch(out, -1) {
		if name, arguments := cutTypeArguments(match[1]); arguments == "" || isShape(arguments) {
			inlinable[name] = true
		}
	}
	return inlinable
}

// isShape reports whether arguments are those of the instance of a generic
// function that has its code, shared by all types of one shape. Other instances
// only call that one, and are always inlinable.
func isShape(arguments string) bool { return strings.Contains(arguments, "go.shape.") }

// cutTypeArguments cuts [...] from the name of a function, and returns it too.
func cutTypeArguments(name string) (_, arguments string) {
	begin, end := strings.IndexByte(name, '['), strings.LastIndexByte(name, ']')
	if begin < 0 || end < begin {
		return name, ""
	}
	return name[:begin] + name[end+1:], name[begin : end+1]
}
