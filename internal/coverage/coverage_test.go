// Package coverage checks that every statement which this project makes about
// the protocol has a test. The statements are numbered: B says what an
// implementation must do, C how it is configured, D what it does in real
// networks, and E is a list of mistakes that others made.
//
// A test says what it is for in its name, TestB07GreatestTimestampSurvives, or
// in its comment: Covers E12, D06.
package coverage

import (
	"bytes"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write README.md")

// A statement is what something has to be tested for.
type statement struct {
	number  string // a letter and at least two digits
	summary string
	tests   []string
}

var (
	testName   = regexp.MustCompile(`^Test([BCDE])([0-9]+)`)
	covers     = regexp.MustCompile(`\bCovers ((?:[BCDE][0-9]+(?:,\s+|\.)?)+)`)
	coverage   = regexp.MustCompile(`([BCDE])([0-9]+)`)
	runByTest  = regexp.MustCompile(`^(Test|Fuzz)[^a-z]`)
	checkLists = map[byte]int{'B': 104, 'C': 15, 'D': 15, 'E': 41}
)

func TestEveryStatementIsTested(t *testing.T) {
	if _, err := os.Stat(root + "/bench/go.mod"); err != nil {
		t.Skip("not in the repository, which has tests in other modules too")
	}
	statements := readStatements(t)
	byNumber := make(map[string]*statement)
	for i := range statements {
		byNumber[statements[i].number] = &statements[i]
	}
	for _, file := range testFiles(t) {
		for test, numbers := range testsOf(t, file) {
			for _, n := range numbers {
				s := byNumber[n]
				if s == nil {
					t.Errorf("%s: %s is for %s, which does not exist", file, test, n)
					continue
				}
				s.tests = append(s.tests, test)
			}
		}
	}
	for i := range statements {
		s := &statements[i]
		slices.Sort(s.tests)
		s.tests = slices.Compact(s.tests)
		if len(s.tests) == 0 {
			t.Errorf("no test for %s: %s", s.number, s.summary)
		}
	}
	readme := table(statements)
	if *update {
		if err := os.WriteFile("README.md", readme, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile("README.md"); err != nil || !bytes.Equal(got, readme) {
		t.Errorf("README.md is stale (%v): run go test ./internal/coverage -update", err)
	}
}

// readStatements returns the list, of which nothing may be missing.
func readStatements(t *testing.T) (statements []statement) {
	t.Helper()
	text, err := os.ReadFile("testdata/statements.txt")
	if err != nil {
		t.Fatal(err)
	}
	counts := make(map[byte]int)
	for line := range strings.Lines(string(text)) {
		number, summary, _ := strings.Cut(strings.TrimSpace(line), " ")
		counts[number[0]]++
		if want := canonical(number[:1], strconv.Itoa(counts[number[0]])); number != want || summary == "" {
			t.Fatalf("statements.txt has %q where %s should be", line, want)
		}
		statements = append(statements, statement{number: number, summary: summary})
	}
	for letter, n := range checkLists {
		if counts[letter] != n {
			t.Errorf("%d statements of list %c, want %d", counts[letter], letter, n)
		}
	}
	return statements
}

// canonical is how the list numbers a statement, whose number a test may have
// written without the leading zero.
func canonical(letter, digits string) string {
	n, err := strconv.Atoi(digits)
	if err != nil {
		return letter + digits
	}
	return fmt.Sprintf("%s%02d", letter, n)
}

const root = "../.."

// testFiles returns the files with tests of all modules in the repository, by
// their path from its root.
func testFiles(t *testing.T) (files []string) {
	t.Helper()
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		switch base := d.Name(); {
		case d.IsDir() && name != root && (base == "testdata" || base == "vendor" || base[0] == '.'):
			return filepath.SkipDir
		case strings.HasSuffix(base, "_test.go"):
			rel, err := filepath.Rel(root, name)
			if err != nil {
				return err
			}
			files = append(files, filepath.ToSlash(rel))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// testsOf returns the tests of a file, each with the numbers of the statements
// that it is for.
func testsOf(t *testing.T, file string) map[string][]string {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, filepath.FromSlash(file)), nil, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	tests := make(map[string][]string)
	for _, decl := range f.Decls {
		fn, ok := decl.(*ast.FuncDecl)
		if !ok || fn.Recv != nil {
			continue
		}
		name := fn.Name.Name
		var numbers []string
		if m := testName.FindStringSubmatch(name); m != nil {
			numbers = append(numbers, canonical(m[1], m[2]))
		}
		for _, list := range covers.FindAllString(fn.Doc.Text(), -1) {
			for _, m := range coverage.FindAllStringSubmatch(list, -1) {
				numbers = append(numbers, canonical(m[1], m[2]))
			}
		}
		if len(numbers) == 0 {
			continue
		}
		if !runByTest.MatchString(name) {
			t.Errorf("%s: %s says what it covers, but is no test", file, name)
		}
		if dir := path.Dir(file); dir != "." {
			name = dir + "." + name
		}
		tests[name] = numbers
	}
	return tests
}

// table is what README.md should be.
func table(statements []statement) []byte {
	var b bytes.Buffer
	b.WriteString(`# What is tested

Every statement about the protocol that this project makes, and its tests.
Tests of the root package go by their name, others by their directory too.

- B: what an implementation must do
- C: how it is configured
- D: what it does in real networks
- E: mistakes that others made, none of which may be made here

` + "`go test ./internal/coverage`" + ` fails where a test is missing, and with ` + "`-update`" + `
writes this file.

| | statement | tests |
|---|---|---|
`)
	escape := strings.NewReplacer("|", `\|`, "_", `\_`, "<", `\<`)
	for _, s := range statements {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", s.number, escape.Replace(s.summary), strings.Join(s.tests, "<br>"))
	}
	return b.Bytes()
}
