package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
)

// variable is the environment variable that selects a mutation, by its line in the
// list.
const variable = "MUTATION"

// build compiles the tests of a package with all its mutations to a binary.
func build(root, pkg, binary string, mutations []mutation) error {
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
	texts, err := files.mutated(mutations)
	if err != nil {
		return err
	}
	for name, text := range texts {
		if err := addToOverlay(name, text); err != nil {
			return err
		}
	}
	selection := fmt.Sprintf("package %s\n\nimport (\"os\"; \"strconv\")\n\nvar mutation, _ = strconv.Atoi(os.Getenv(%q))\n", files[0].file.Name.Name, variable)
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

var failure = regexp.MustCompile(`(?m)^\s*--- FAIL: (\S+)|^panic: (.*)|^fatal error: (.*)`)

// test runs tests with the mutation of the given line, 0 for none. It returns the
// failure that they report, empty if all pass. A test that a mutation makes hang
// fails by its timeout.
func test(ctx context.Context, root, pkg, binary, tests string, line int) (noticed string, err error) {
	timeout := "20s"
	if line == 0 {
		timeout = "10m"
	}
	cmd := exec.CommandContext(ctx, binary, "-test.run", tests, "-test.short", "-test.failfast", "-test.timeout", timeout)
	cmd.Dir = filepath.Join(root, filepath.FromSlash(pkg))
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", variable, line))
	out, err := cmd.CombinedOutput()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		return "", err
	}
	switch m := failure.FindSubmatch(out); {
	case bytes.Contains(out, []byte("testing: warning: no tests to run")):
		return "", fmt.Errorf("mutations.txt:%d: no test matches %s", line, tests)
	case err == nil:
		return "", nil
	case m != nil:
		return string(bytes.Join(m[1:], nil)), nil
	}
	return err.Error(), nil
}

// mutate runs the tests with each mutation, prints which failure noticed it, and
// returns how many mutations survived.
func mutate(root string, mutations []mutation) (survivors int, err error) {
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
		if err := build(root, pkg, binary, ms); err != nil {
			return 0, err
		}
		// A test that fails without a mutation proves nothing.
		var all []string
		for _, m := range ms {
			all = append(all, m.tests)
		}
		noticed, err := test(context.Background(), root, pkg, binary, strings.Join(all, "|"), 0)
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
				if noticed[i], err = test(ctx, root, m.pkg(), binaries[m.pkg()], m.tests, m.line); err != nil {
					cancel(err)
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
	return printMutations(mutations, noticed), nil
}

// printMutations prints the failure that noticed each mutation, a summary and the
// survivors, and returns the number of survivors.
func printMutations(mutations []mutation, noticed []string) (survivors int) {
	areas, total := areasOf(mutations)
	killed := make(map[string]int)
	area := ""
	for i, m := range mutations {
		if m.area != area {
			area = m.area
			fmt.Printf("\n%s\n", area)
		}
		fmt.Printf("  %s: %s\n", m.mistake, cmp.Or(noticed[i], "SURVIVES"))
		if noticed[i] != "" {
			killed[area]++
		} else {
			survivors++
		}
	}
	fmt.Println()
	for _, area := range areas {
		fmt.Printf("%s: %d of %d mutations killed\n", area, killed[area], total[area])
	}
	fmt.Printf("all: %d of %d mutations killed\n", len(mutations)-survivors, len(mutations))
	for i, m := range mutations {
		if noticed[i] == "" {
			fmt.Printf("\nSURVIVES: %s (mutations.txt:%d). %s in %s should notice:\n-%s\n+%s\n", m.mistake, m.line, m.tests, m.pkg(),
				strings.ReplaceAll(m.old, "\n", "\n-"), strings.ReplaceAll(m.new, "\n", "\n+"))
		}
	}
	return survivors
}
