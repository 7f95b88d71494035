package main

import (
	"bytes"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
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

func TestParseStatements(t *testing.T) {
	text, err := os.ReadFile("testdata/statements.txt")
	if err != nil {
		t.Fatal(err)
	}
	statements, err := parseStatements(string(text))
	if err != nil || statements[0].number != "P01" || statements[0].summary == "" {
		t.Errorf("%v, %v; want P01 first", statements[:1], err)
	}
	for _, test := range []struct{ name, old, text, want string }{
		{"missing", "\nP02 ", "\nP03 ", "want P02"},
		{"repeated", "\nC02 ", "\nC01 ", "want C02"},
		{"without leading zero", "\nM01 ", "\nM1 ", "want M01"},
		{"without summary", "P01 ", "P01\nP02 ", "want P01 and a summary"},
		{"too short", "\nN15 ", "\nX01 ", "14 statements of list N, want 15"},
	} {
		changed := strings.Replace(string(text), test.old, test.text, 1)
		if _, err := parseStatements(changed); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", test.name, err, test.want)
		}
	}
}

func TestNamedStatements(t *testing.T) {
	tests := namedStatementsIn(t, `package p

func TestP7InTheName(t *testing.T) {}

// TestSeveral shows two. Covers M12, N6. It also
// Covers C01.
func TestSeveral(t *testing.T) {}

// TestP01 mentions M12, N06 only.
func TestP01(t *testing.T) {}

// TestNothing covers nothing.
func TestNothing(t *testing.T) {}
`)
	want := map[string][]string{"TestP7InTheName": {"P07"}, "TestSeveral": {"M12", "N06", "C01"}, "TestP01": {"P01"}}
	if !maps.EqualFunc(tests, want, slices.Equal) {
		t.Errorf("%v, want %v", tests, want)
	}
}

// namedStatementsIn returns the result of namedStatements for a file with the given text.
func namedStatementsIn(t *testing.T, text string) map[string][]string {
	t.Helper()
	tests, err := namedStatements(writeFiles(t, map[string]string{"a_test.go": text}) + "/a_test.go")
	if err != nil {
		t.Fatal(err)
	}
	return tests
}

func TestFindTests(t *testing.T) {
	dir := writeFiles(t, map[string]string{
		"a_test.go":          "package p\nfunc TestP01B() {}\nfunc TestP01A() {}",
		"sub/dir/a_test.go":  "package dir\n// Covers P01.\nfunc FuzzX() {}",
		"a.go":               "package p\nfunc TestP02() {}",
		"testdata/a_test.go": "package p\nfunc TestP02() {}",
	})
	statements := []statement{{number: "P01"}, {number: "P02"}}
	if err := findTests(dir, statements); err != nil {
		t.Fatal(err)
	}
	if want := []string{"TestP01A", "TestP01B", "sub/dir.FuzzX"}; !slices.Equal(statements[0].tests, want) {
		t.Errorf("%q, want %q", statements[0].tests, want)
	}
	if len(statements[1].tests) > 0 {
		t.Errorf("%q are no tests", statements[1].tests)
	}

	for name, text := range map[string]string{
		"TestP99Unknown names P99, which does not exist": "func TestP99Unknown() {}",
		"helper names a statement, but is not a test":    "// Covers P01.\nfunc helper() {}",
		"Testimony names a statement, but is not a test": "// Covers P01.\nfunc Testimony() {}",
		"expected declaration":                           "no Go",
	} {
		dir := writeFiles(t, map[string]string{"a_test.go": "package p\n" + text})
		if err := findTests(dir, []statement{{number: "P01"}}); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%v, want %q", err, name)
		}
	}
}

func TestPrintStatements(t *testing.T) {
	former := statementCount
	defer func() { statementCount = former }()
	statementCount = map[byte]int{'P': 2, 'M': 1}
	var b strings.Builder
	gaps := printStatements(&b, []statement{{"P01", "first", []string{"TestA", "TestB"}}, {"P02", "second", nil}, {"M01", "third", []string{"TestC"}}})
	for _, want := range []string{
		"P01   first\n      TestA\n      TestB\n", "P02   second\n      NO TEST\n",
		"P: 1 of 2 statements tested\n", "M: 1 of 1 statements tested\n",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q is missing in\n%s", want, &b)
		}
	}
	if gaps != 1 {
		t.Errorf("%d statements without tests, want 1", gaps)
	}
}

// writeFiles writes files with the given text by their path, and returns their
// directory.
func writeFiles(t *testing.T, files map[string]string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for name, text := range files {
		name = filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(name), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	return dir
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
