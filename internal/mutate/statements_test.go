package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
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

// readme returns the text of README.md.
func readme(statements []statement, mutations []mutation) []byte {
	var b bytes.Buffer
	b.WriteString(`# What is tested

This table lists the numbered statements about the protocol with their tests.
A test outside the root package has its directory in front of its name.

- P: the protocol, what an implementation must do
- C: the configuration
- N: real networks
- M: mistakes that other implementations made

` + "`go test ./internal/mutate`" + ` fails if a statement has no test; with ` + "`-update`" + `
it writes this file. ` + "`go run ./internal/mutate`" + ` runs the tests on mutated code:
it makes each [mutation](testdata/mutations.txt) in turn, and fails unless one of
the tests named with the mutation fails. A mutation names its function, not its
file, so that code can move between files.

| | statement | tests |
|---|---|---|
`)
	escape := strings.NewReplacer("|", `\|`, "_", `\_`, "<", `\<`)
	for _, s := range statements {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", s.number, escape.Replace(s.summary), strings.Join(s.tests, "<br>"))
	}
	b.WriteString("\n| area | mutations that the tests detect |\n|---|---|\n")
	areas, total := countByArea(mutations)
	for _, area := range areas {
		fmt.Fprintf(&b, "| %s | %d |\n", area, total[area])
	}
	fmt.Fprintf(&b, "| all | %d |\n", len(mutations))
	return b.Bytes()
}
