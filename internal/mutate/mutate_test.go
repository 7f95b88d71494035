package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write README.md")

const root = "../.."

func TestEveryStatementIsTested(t *testing.T) {
	if _, err := os.Stat(root + "/bench/go.mod"); err != nil {
		t.Skip("not in the repository, which has tests in other modules too")
	}
	statements, err := readStatements(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range statements {
		if len(s.tests) == 0 {
			t.Errorf("no test for %s: %s", s.number, s.summary)
		}
	}
	mutations, err := readMutations(root)
	if err != nil {
		t.Fatal(err)
	}
	readme := readme(statements, mutations)
	if *update {
		if err := os.WriteFile("README.md", readme, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile("README.md"); err != nil || !bytes.Equal(got, readme) {
		t.Errorf("README.md is stale (%v): run go test ./internal/mutate -update", err)
	}
}

// TestMutationsApply checks that the code has every function and text that the
// list mentions. Running the tests with the mutations takes longer.
func TestMutationsApply(t *testing.T) {
	mutations, err := readMutations(root)
	if err != nil {
		t.Fatal(err)
	}
	packages := make(map[string]sources)
	for i := range mutations {
		m := &mutations[i]
		if packages[m.pkg()] == nil {
			if packages[m.pkg()], err = readSources(filepath.Join(root, filepath.FromSlash(m.pkg()))); err != nil {
				t.Fatal(err)
			}
		}
		s, fn, _, err := packages[m.pkg()].find(m)
		if err == nil {
			_, err = s.callOf(fn, m)
		}
		if err != nil {
			t.Error(err)
		}
	}
}

// readme is what README.md should be.
func readme(statements []statement, mutations []mutation) []byte {
	var b bytes.Buffer
	b.WriteString(`# What is tested

Every statement about the protocol that this project makes, and its tests.
Tests of the root package go by their name, others by their directory too.

- P: the protocol, what an implementation must do
- C: the configuration
- N: real networks
- M: mistakes that other implementations made and this one must not

` + "`go test ./internal/mutate`" + ` fails where a test is missing, and with ` + "`-update`" + `
writes this file. ` + "`go run ./internal/mutate`" + ` prints the list and then makes
[mistakes](testdata/mutations.txt) in the code, one by one: it fails unless the
tests named with each notice.

| | statement | tests |
|---|---|---|
`)
	escape := strings.NewReplacer("|", `\|`, "_", `\_`, "<", `\<`)
	for _, s := range statements {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", s.number, escape.Replace(s.summary), strings.Join(s.tests, "<br>"))
	}
	b.WriteString("\n| | mistakes that the tests notice |\n|---|---|\n")
	areas, total := areasOf(mutations)
	for _, area := range areas {
		fmt.Fprintf(&b, "| %s | %d |\n", area, total[area])
	}
	fmt.Fprintf(&b, "| all | %d |\n", len(mutations))
	return b.Bytes()
}
