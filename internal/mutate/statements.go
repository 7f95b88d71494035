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
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// The project's statements about the protocol are numbered. P: what an
// implementation must do. C: how it is configured. N: what it does in real
// networks. M: mistakes of other implementations that it must not make.
//
// A test names its statement in its own name, TestP07GreatestTimestampSurvives,
// or names several in its comment: Covers M12, N06.

// A statement needs at least one test.
type statement struct {
	number  string // a letter and at least two digits
	summary string
	tests   []string
}

var (
	testName        = regexp.MustCompile(`^Test([PCNM])([0-9]+)`)
	covers          = regexp.MustCompile(`\bCovers ((?:[PCNM][0-9]+(?:,\s+|\.)?)+)`)
	statementNumber = regexp.MustCompile(`([PCNM])([0-9]+)`)
	runByTest       = regexp.MustCompile(`^(Test|Fuzz)[^a-z]`)
)

const (
	lists    = "PCNM"
	testdata = "internal/mutate/testdata/" // from the root of the repository
)

// listed is the number of statements in each list, so that none is lost.
var listed = map[byte]int{'P': 104, 'C': 15, 'N': 15, 'M': 41}

// readStatements returns all statements with their tests.
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

// parseStatements parses the list of statements, a line for each, in the order of
// their numbers.
func parseStatements(text string) (statements []statement, err error) {
	counts := make(map[byte]int)
	for line := range strings.Lines(text) {
		number, summary, _ := strings.Cut(strings.TrimSpace(line), " ")
		counts[line[0]]++
		if want := canonical(line[:1], strconv.Itoa(counts[line[0]])); number != want || summary == "" {
			return nil, fmt.Errorf("statements.txt has %q in the place of %s", line, want)
		}
		statements = append(statements, statement{number: number, summary: summary})
	}
	for letter, n := range listed {
		if counts[letter] != n {
			return nil, fmt.Errorf("%d statements of list %c, want %d", counts[letter], letter, n)
		}
	}
	return statements, nil
}

// canonical returns the number of a statement as the list has it. A test may omit
// the leading zero.
func canonical(letter, digits string) string {
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
		tests, err := testsOf(name)
		if err != nil {
			return err
		}
		for test, numbers := range tests {
			if !runByTest.MatchString(test) {
				wrong = append(wrong, fmt.Errorf("%s: %s covers statements, but is not a test", name, test))
			}
			if rel != "." {
				test = path.Join(filepath.ToSlash(rel)) + "." + test
			}
			for _, n := range numbers {
				if s := byNumber[n]; s != nil {
					s.tests = append(s.tests, test)
				} else {
					wrong = append(wrong, fmt.Errorf("%s: %s is for %s, which does not exist", name, test, n))
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

// testsOf returns the functions of a file that name statements, with the numbers
// of these statements.
func testsOf(file string) (map[string][]string, error) {
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
			numbers = append(numbers, canonical(m[1], m[2]))
		}
		for _, list := range covers.FindAllString(fn.Doc.Text(), -1) {
			for _, m := range statementNumber.FindAllStringSubmatch(list, -1) {
				numbers = append(numbers, canonical(m[1], m[2]))
			}
		}
		if len(numbers) > 0 {
			tests[name] = numbers
		}
	}
	return tests, nil
}

// printStatements prints statements with their tests, and returns the number of
// statements without tests.
func printStatements(w io.Writer, statements []statement) (gaps int) {
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
	for _, letter := range []byte(lists) {
		gaps += listed[letter] - tested[letter]
		fmt.Fprintf(w, "%c: %d of %d statements tested\n", letter, tested[letter], listed[letter])
	}
	return gaps
}
