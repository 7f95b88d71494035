package main

import (
	"errors"
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
)

// The statements that this project makes about the protocol are numbered: B
// says what an implementation must do, C how it is configured, D what it does
// in real networks, and E is a list of mistakes that others made.
//
// A test says what it is for in its name, TestP07GreatestTimestampSurvives, or
// in its comment: Covers M12, N06.

// A statement is what something has to be tested for.
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

// listed is how many statements each list has, of which none may be lost.
var listed = map[byte]int{'P': 104, 'C': 15, 'N': 15, 'M': 41}

// readStatements returns the lists, with the tests of each statement.
func readStatements(root string) (statements []statement, err error) {
	text, err := os.ReadFile(filepath.Join(root, testdata+"statements.txt"))
	if err != nil {
		return nil, err
	}
	counts := make(map[byte]int)
	for line := range strings.Lines(string(text)) {
		number, summary, _ := strings.Cut(strings.TrimSpace(line), " ")
		counts[line[0]]++
		if want := canonical(line[:1], strconv.Itoa(counts[line[0]])); number != want || summary == "" {
			return nil, fmt.Errorf("statements.txt has %q where %s should be", line, want)
		}
		statements = append(statements, statement{number: number, summary: summary})
	}
	for letter, n := range listed {
		if counts[letter] != n {
			return nil, fmt.Errorf("%d statements of list %c, want %d", counts[letter], letter, n)
		}
	}
	return statements, findTests(root, statements)
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

// findTests adds to statements their tests in all modules of the repository.
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
				wrong = append(wrong, fmt.Errorf("%s: %s says what it covers, but is no test", name, test))
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

// testsOf returns the functions of a file that say which statements they are
// for, with the numbers of those.
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

// printStatements prints statements with their tests, and returns how many
// have none.
func printStatements(statements []statement) (gaps int) {
	tested := make(map[byte]int)
	for _, s := range statements {
		tests := "NO TEST"
		if len(s.tests) > 0 {
			tests = strings.Join(s.tests, "\n      ")
			tested[s.number[0]]++
		}
		fmt.Printf("%-5s %s\n      %s\n", s.number, s.summary, tests)
	}
	fmt.Println()
	for _, letter := range []byte(lists) {
		gaps += listed[letter] - tested[letter]
		fmt.Printf("%c: %d of %d statements tested\n", letter, tested[letter], listed[letter])
	}
	return gaps
}
