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

// selectionVariable is the environment variable that selects a mutation by its
// line in the list.
const selectionVariable = "MUTATION"

// buildTests compiles the tests of a package, with all its mutations, to a binary.
func buildTests(root, pkg, binary string, mutations []mutation) error {
	dir, err := os.MkdirTemp("", "mutations")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var overlay struct{ Replace map[string]string }
	overlay.Replace = make(map[string]string)
	addToOverlay := func(name string, text []byte) error {
		abs, err := filepath.Abs(name)
		if err != nil {
			return err
		}
		mutated := filepath.Join(dir, filepath.Base(abs))
		overlay.Replace[abs] = mutated
		return os.WriteFile(mutated, text, 0o666)
	}

	packageDir := filepath.Join(root, filepath.FromSlash(pkg))
	files, err := readSources(packageDir)
	if err != nil {
		return err
	}
	texts, err := files.mutatedFiles(mutations)
	if err != nil {
		return err
	}
	for name, text := range texts {
		if err := addToOverlay(name, text); err != nil {
			return err
		}
	}
	selection := fmt.Sprintf("package %s\n\nimport (\"os\"; \"strconv\")\n\nvar mutation, _ = strconv.Atoi(os.Getenv(%q))\n", files[0].file.Name.Name, selectionVariable)
	if err := addToOverlay(filepath.Join(packageDir, "mutation_selected.go"), []byte(selection)); err != nil {
		return err
	}
	list, err := json.Marshal(overlay)
	if err != nil {
		return err
	}
	overlayFile := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(overlayFile, list, 0o666); err != nil {
		return err
	}
	cmd := exec.Command("go", "test", "-c", "-gcflags=-e", "-overlay", overlayFile, "-o", binary, pkg)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s does not compile with mutations: %w\n%s", pkg, err, out)
	}
	return nil
}

// failurePattern matches the first failure in the output of a test binary. One of
// its groups names it.
var failurePattern = regexp.MustCompile(`(?m)^\s*--- FAIL: (\S+)|^panic: (.*)|^fatal error: (.*)`)

// runTests runs tests with the mutation of the given line, or without one if line
// is 0. It returns the failure that they report, empty if all pass. If a mutation
// makes a test hang, the timeout of the test binary is the failure.
func runTests(ctx context.Context, root, pkg, binary, tests string, line int) (noticed string, err error) {
	timeout := "20s"
	if line == 0 {
		timeout = "10m"
	}
	cmd := exec.CommandContext(ctx, binary, "-test.run", tests, "-test.short", "-test.failfast", "-test.timeout", timeout)
	cmd.Dir = filepath.Join(root, filepath.FromSlash(pkg))
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", selectionVariable, line))
	out, err := cmd.CombinedOutput()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		return "", err
	}
	switch m := failurePattern.FindSubmatch(out); {
	case bytes.Contains(out, []byte("testing: warning: no tests to run")):
		return "", fmt.Errorf("no test of %s matches %s", pkg, tests)
	case err == nil:
		return "", nil
	case m != nil:
		return string(bytes.Join(m[1:], nil)), nil
	}
	return err.Error(), nil
}

// runMutations runs the tests with each mutation, prints which failure noticed it,
// and returns the number of mutations that no test noticed.
func runMutations(w io.Writer, root string, mutations []mutation) (survivors int, err error) {
	dir, err := os.MkdirTemp("", "tests")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	root, err = filepath.Abs(root)
	if err != nil {
		return 0, err
	}

	byPackage := make(map[string][]mutation)
	for _, m := range mutations {
		byPackage[m.pkg()] = append(byPackage[m.pkg()], m)
	}
	binaries := make(map[string]string)
	for pkg, ms := range byPackage {
		binary := filepath.Join(dir, fmt.Sprintf("%d.test", len(binaries)))
		binaries[pkg] = binary
		if err := buildTests(root, pkg, binary, ms); err != nil {
			return 0, err
		}
		// A test that fails without a mutation proves nothing.
		var all []string
		for _, m := range ms {
			all = append(all, m.tests)
		}
		noticed, err := runTests(context.Background(), root, pkg, binary, strings.Join(all, "|"), 0)
		if err != nil {
			return 0, err
		}
		if noticed != "" {
			return 0, fmt.Errorf("%s fails without any mutation: %s", pkg, noticed)
		}
	}

	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	noticed := make([]string, len(mutations))
	var group sync.WaitGroup
	next := make(chan int)
	for range runtime.GOMAXPROCS(0) {
		group.Go(func() {
			for i := range next {
				m := &mutations[i]
				var err error
				if noticed[i], err = runTests(ctx, root, m.pkg(), binaries[m.pkg()], m.tests, m.line); err != nil {
					cancel(m.errorf("%w", err))
				}
			}
		})
	}
	for i := range mutations {
		next <- i
	}
	close(next)
	group.Wait()
	if err := context.Cause(ctx); err != nil {
		return 0, err
	}
	return printMutations(w, mutations, noticed), nil
}

// printMutations prints the failure that noticed each mutation, a summary, and the
// survivors: the mutations that no test noticed. It returns their number.
func printMutations(w io.Writer, mutations []mutation, noticed []string) (survivors int) {
	areas, total := areasOf(mutations)
	killed := make(map[string]int)
	area := ""
	for i, m := range mutations {
		if m.area != area {
			area = m.area
			fmt.Fprintf(w, "\n%s\n", area)
		}
		fmt.Fprintf(w, "  %s: %s\n", m.description, cmp.Or(noticed[i], "SURVIVES"))
		if noticed[i] != "" {
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
		if noticed[i] == "" {
			fmt.Fprintf(w, "\nSURVIVES: %s (mutations.txt:%d). %s in %s should notice it:\n-%s\n+%s\n", m.description, m.line, m.tests, m.pkg(),
				strings.ReplaceAll(m.oldText, "\n", "\n-"), strings.ReplaceAll(m.newText, "\n", "\n+"))
		}
	}
	return survivors
}
