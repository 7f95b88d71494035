// Package inlinetest checks that the compiler can still inline functions of the
// packet path. A call costs several nanoseconds there, for each packet, and a
// statement too many in such a function adds one without any other sign.
package inlinetest

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
)

// Check fails t for each function of the tested package that the compiler cannot
// inline. Functions are named as the compiler does, but without type arguments:
// "padded", "trieKey.nextBits", "(*trieNode).contains". It skips the test where
// there is no go command, and in instrumented builds, whose compiler counts the
// instrumentation as part of a function.
func Check(t *testing.T, functions ...string) {
	t.Helper()
	if option := instrumentation(); option != "" {
		t.Skip("built with " + option)
	}
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("no go command: ", err)
	}
	inlinable, err := readInlinable()
	if err != nil {
		t.Fatal(err)
	}
	for _, function := range functions {
		if !inlinable[function] {
			t.Errorf("the compiler cannot inline %s", function)
		}
	}
}

// readInlinable compiles the package in the working directory and returns its
// inlinable functions. The build cache keeps what the compiler prints, so that
// only the first call after a change takes time.
func readInlinable() (map[string]bool, error) {
	cmd := exec.Command("go", "build", "-gcflags=-m", "-o", os.DevNull, ".")
	cmd.Env = append(os.Environ(), "GOOS="+runtime.GOOS, "GOARCH="+runtime.GOARCH)
	output, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("go build: %w\n%s", err, output)
	}
	return parseInlinable(string(output)), nil
}

// instrumentation returns the option of the go command that instruments this
// build, or "".
func instrumentation() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "-race", "-msan", "-asan", "-cover":
			if s.Value == "true" {
				return s.Key
			}
		}
	}
	return ""
}

var canInline = regexp.MustCompile(`(?m): can inline (.*)$`)

// parseInlinable returns the functions that the compiler reports as inlinable,
// without type arguments.
func parseInlinable(output string) map[string]bool {
	functions := make(map[string]bool)
	for _, m := range canInline.FindAllStringSubmatch(output, -1) {
		name, arguments := withoutTypeArguments(m[1])
		if arguments == "" || isShape(arguments) {
			functions[name] = true
		}
	}
	return functions
}

// isShape reports whether arguments are those of the instance of a generic
// function that has its code, shared by all types of one shape. Other instances
// are wrappers, which are always inlinable.
func isShape(arguments string) bool { return strings.Contains(arguments, "go.shape.") }

// withoutTypeArguments returns name without its type arguments, and those.
func withoutTypeArguments(name string) (_, arguments string) {
	open, closing := strings.IndexByte(name, '['), strings.LastIndexByte(name, ']')
	if open < 0 || closing < open {
		return name, ""
	}
	return name[:open] + name[closing+1:], name[open : closing+1]
}
