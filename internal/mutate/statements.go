package main

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// A statement is a requirement that must have a test. Its number is a letter,
// which names the list, and at least two digits: P is for the protocol, C for
// the configuration, N for real networks, and M for mistakes that other
// implementations made.
//
// A test names its statement in its own name, TestP07GreatestTimestampSurvives,
// or in its comment: Covers M12, N06.
type statement struct {
	number  string
	summary string
	tests   []string
}

var (
	testName    = regexp.MustCompile(`^Test([PCNM])([0-9]+)`)
	covers      = regexp.MustCompile(`\bCovers ((?:[PCNM][0-9]+(?:,\s+|\.)?)+)`)
	numberParts = regexp.MustCompile(`([PCNM])([0-9]+)`)
	runByTest   = regexp.MustCompile(`^(Test|Fuzz)[^a-z]`)
)

const (
	statementLists = "PCNM"

	testdata = "internal/mutate/testdata/" // from the root of the repository
)

// statementCount is the number of statements in each list: none may be lost.
var statementCount = map[byte]int{'P': 104, 'C': 15, 'N': 15, 'M': 41}

// readStatements reads statements.txt of the repository at root, and finds the
// tests of each statement.
func readStatements(root string) ([]statement, error) {
	text, err := os.ReadFile(filepath.Join(root, testdata+"statements.txt"))
	if err != nil {
		return nil, err
	}
	statements, err := parseStatements(string(text))
	if err != nil {
		return nil, err
	}
	return statements, findTests(root, statements)
}

// parseStatements parses a list of statements, one a line, in the order of their
// numbers.
func parseStatements(text string) (statements []statement, err error) {
	counts := make(map[byte]int)
	for line := range strings.Lines(text) {
		number, summary, _ := strings.Cut(strings.TrimSpace(line), " ")
		counts[line[0]]++
		if want := statementNumber(line[:1], strconv.Itoa(counts[line[0]])); number != want || summary == "" {
			return nil, fmt.Errorf("statements.txt: got %q, want %s and a summary", line, want)
		}
		statements = append(statements, statement{number: number, summary: summary})
	}
	for letter, n := range statementCount {
		if counts[letter] != n {
			return nil, fmt.Errorf("statements.txt: %d statements of list %c, want %d", counts[letter], letter, n)
		}
	}
	return statements, nil
}

// statementNumber returns the number of a statement with a leading zero, which
// the name of a test may omit.
func statementNumber(letter, digits string) string {
	n, err := strconv.Atoi(digits)
	if err != nil {
		return letter + digits
	}
	return fmt.Sprintf("%s%02d", letter, n)
}

// findTests adds the tests in all modules of the repository to statements.
func findTests(root string, statements []statement) error {
	byNumber := make(map[string]*statement)
	for i := range statements {
		byNumber[statements[i].number] = &statements[i]
	}
	var wrong []error
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		base := d.Name()
		if d.IsDir() && name != root && (base == "testdata" || base == "vendor" || base[0] == '.') {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(base, "_test.go") {
			return nil
		}
		rel, err := filepath.Rel(root, filepath.Dir(name))
		if err != nil {
			return err
		}
		tests, err := namedStatements(name)
		if err != nil {
			return err
		}
		for test, numbers := range tests {
			if !runByTest.MatchString(test) {
				wrong = append(wrong, fmt.Errorf("%s: %s names a statement, but is not a test", name, test))
			}
			if rel != "." {
				test = filepath.ToSlash(rel) + "." + test
			}
			for _, n := range numbers {
				if s := byNumber[n]; s != nil {
					s.tests = append(s.tests, test)
				} else {
					wrong = append(wrong, fmt.Errorf("%s: %s names %s, which does not exist", name, test, n))
				}
			}
		}
		return nil
	})
	for i := range statements {
		s := &statements[i]
		slices.Sort(s.tests)
		s.tests = slices.Compact(s.tests)
	}
	return errors.Join(append(wrong, err)...)
}

// namedStatements returns the functions of a file that name statements, with
// the numbers of those statements.
func namedStatements(file string) (map[string][]string, error) {
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return nil, err
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
			numbers = append(numbers, statementNumber(m[1], m[2]))
		}
		for _, list := range covers.FindAllString(fn.Doc.Text(), -1) {
			for _, m := range numberParts.FindAllStringSubmatch(list, -1) {
				numbers = append(numbers, statementNumber(m[1], m[2]))
			}
		}
		if len(numbers) > 0 {
			tests[name] = numbers
		}
	}
	return tests, nil
}

// printStatements prints statements with their tests, and returns the number
// of statements without test.
func printStatements(w io.Writer, statements []statement) (untested int) {
	tested := make(map[byte]int)
	for _, s := range statements {
		tests := "NO TEST"
		if len(s.tests) > 0 {
			tests = strings.Join(s.tests, "\n      ")
			tested[s.number[0]]++
		}
		fmt.Fprintf(w, "%-5s %s\n      %s\n", s.number, s.summary, tests)
	}
	fmt.Fprintln(w)
	for _, letter := range []byte(statementLists) {
		untested += statementCount[letter] - tested[letter]
		fmt.Fprintf(w, "%c: %d of %d statements tested\n", letter, tested[letter], statementCount[letter])
	}
	return untested
}
