package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
)

// All mutations of a package are compiled into one test binary, because
// compiling takes longer than most tests: an environment variable chooses the
// mutation that a run of the binary makes. The sources stay as they are, since
// the go command reads the mutated ones from an overlay.

// mutationVariable is the environment variable with the line of the mutation.
const mutationVariable = "MUTATION"

const chooseMutation = `package %s

import (
	"os"
	"strconv"
)

var mutation, _ = strconv.Atoi(os.Getenv(%q))
`

// A testBinary is the compiled tests of a package with its mutations.
type testBinary struct {
	dir  string // to run it in
	file string
}

// buildTests compiles the tests of the package in dir with its mutations.
func buildTests(root, file string, mutations []mutation) (*testBinary, error) {
	target := mutations[0].function
	dir := filepath.Join(root, filepath.FromSlash(target.dir))
	p, err := readPackage(dir, target.goos)
	if err != nil {
		return nil, err
	}
	texts, err := p.mutateFiles(mutations)
	if err != nil {
		return nil, err
	}
	texts[filepath.Join(dir, "mutation_chosen.go")] = fmt.Appendf(nil, chooseMutation, p.name, mutationVariable)

	temporary, err := os.MkdirTemp("", "mutations")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(temporary)
	overlay, err := writeOverlay(temporary, texts)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("go", "test", "-c", "-overlay", overlay, "-o", file, target.packagePath())
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%s does not compile with its mutations: %w\n%s", target.packagePath(), err, out)
	}
	return &testBinary{dir, file}, nil
}

// writeOverlay writes texts to the temporary directory, and returns the file
// that makes the go command read them in place of the files they are named by.
func writeOverlay(temporary string, texts map[string][]byte) (string, error) {
	var overlay struct{ Replace map[string]string }
	overlay.Replace = make(map[string]string)
	for name, text := range texts {
		replacement := filepath.Join(temporary, filepath.Base(name))
		overlay.Replace[name] = replacement
		if err := os.WriteFile(replacement, text, 0o666); err != nil {
			return "", err
		}
	}
	text, err := json.Marshal(overlay)
	if err != nil {
		return "", err
	}
	file := filepath.Join(temporary, "overlay.json")
	return file, os.WriteFile(file, text, 0o666)
}

// testOutput matches the lines that say how tests failed.
var testOutput = regexp.MustCompile(`(?m)^\s*--- FAIL: (\S+)|^panic: (.*)|^fatal error: (.*)`)

// run runs the tests whose name matches, with the mutation of that line or,
// with 0, none. It returns the first failure, or "" if all tests pass.
func (b *testBinary) run(ctx context.Context, tests string, line int) (failure string, err error) {
	timeout := "20s" // a mutation can make a test wait forever
	if line == 0 {
		timeout = "10m"
	}
	cmd := exec.CommandContext(ctx, b.file, "-test.run", tests, "-test.short", "-test.failfast", "-test.timeout", timeout)
	cmd.Dir = b.dir
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", mutationVariable, line))
	out, err := cmd.CombinedOutput()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		return "", err
	}
	switch match := testOutput.FindSubmatch(out); {
	case bytes.Contains(out, []byte("testing: warning: no tests to run")):
		return "", fmt.Errorf("no test matches %s", tests)
	case err == nil:
		return "", nil
	case match != nil:
		return string(bytes.Join(match[1:], nil)), nil
	}
	return err.Error(), nil
}

// runMutations runs the tests of each mutation, prints the first failure of
// each, and returns the number of mutations that no test detects.
func runMutations(w io.Writer, root string, mutations []mutation) (survivors int, err error) {
	temporary, err := os.MkdirTemp("", "tests")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(temporary)
	if root, err = filepath.Abs(root); err != nil {
		return 0, err
	}
	byPackage := make(map[string][]mutation)
	for _, m := range mutations {
		dir := m.function.dir
		byPackage[dir] = append(byPackage[dir], m)
	}
	binaries := make(map[string]*testBinary)
	for dir, ms := range byPackage {
		file := filepath.Join(temporary, fmt.Sprintf("%d.test", len(binaries)))
		if binaries[dir], err = buildTests(root, file, ms); err != nil {
			return 0, err
		}
		if err := binaries[dir].runUnmutated(ms); err != nil {
			return 0, fmt.Errorf("%s: %w", dir, err)
		}
	}
	failures, err := runAll(binaries, mutations)
	if err != nil {
		return 0, err
	}
	return printMutations(w, mutations, failures), nil
}

// runUnmutated returns an error if tests fail without any mutation, because
// then their failure detects nothing.
func (b *testBinary) runUnmutated(mutations []mutation) error {
	var tests []string
	for _, m := range mutations {
		tests = append(tests, m.tests)
	}
	failure, err := b.run(context.Background(), strings.Join(tests, "|"), 0)
	if err == nil && failure != "" {
		err = fmt.Errorf("tests fail without any mutation: %s", failure)
	}
	return err
}

// runAll runs the tests of all mutations, some at a time, and returns the
// failure of each.
func runAll(binaries map[string]*testBinary, mutations []mutation) (failures []string, err error) {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	failures = make([]string, len(mutations))
	next := make(chan int)
	var workers sync.WaitGroup
	for range 3 * runtime.GOMAXPROCS(0) { // many failures are deadlines that pass
		workers.Go(func() {
			for i := range next {
				m := &mutations[i]
				var err error
				if failures[i], err = binaries[m.function.dir].run(ctx, m.tests, m.line); err != nil {
					cancel(m.errorf("%w", err))
				}
			}
		})
	}
	for i := range mutations {
		next <- i
	}
	close(next)
	workers.Wait()
	return failures, context.Cause(ctx)
}

// printMutations prints the failure that detected each mutation, a count by
// area, and the mutations that no test detected, whose number it returns.
func printMutations(w io.Writer, mutations []mutation, failures []string) (survivors int) {
	areas, total := countByArea(mutations)
	killed := make(map[string]int)
	area := ""
	for i, m := range mutations {
		if m.area != area {
			area = m.area
			fmt.Fprintf(w, "\n%s\n", area)
		}
		fmt.Fprintf(w, "  %s: %s\n", m.fault, cmp.Or(failures[i], "SURVIVES"))
		if failures[i] != "" {
			killed[area]++
		} else {
			survivors++
		}
	}
	fmt.Fprintln(w)
	for _, area := range areas {
		fmt.Fprintf(w, "%s: %d of %d mutations killed\n", area, killed[area], total[area])
	}
	fmt.Fprintf(w, "all: %d of %d mutations killed\n", len(mutations)-survivors, len(mutations))
	for i, m := range mutations {
		if failures[i] == "" {
			fmt.Fprintf(w, "\nSURVIVES: %s (mutations.txt:%d). %s should fail with this change of %s:\n-%s\n+%s\n",
				m.fault, m.line, m.tests, m.function,
				strings.ReplaceAll(m.old, "\n", "\n-"), strings.ReplaceAll(m.new, "\n", "\n+"))
		}
	}
	return survivors
}
