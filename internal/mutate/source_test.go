package main

import (
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

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

// files are the sources that the tests below change.
var files = map[string]string{
	"a.go": `package p

type table[K, V any] struct{ key K }

func plain(n int) int { return n + 1 }

func (t *table[K, V]) count(names ...string) (n int, err error) {
	n++
	n++
	return n + len(names), nil
}

func (list) clear() { println("clear") }

func unnamed(int) { println("unnamed") }
`,
	"b.go": `package p

type (
	list  []int
	queue[T any] struct{ items []T }
)

func (q queue[T]) clear(force bool) {
	if force {
		println("force")
	}
}

func blank(_, n int) { println(n) }
`,
	"c_test.go":  "package p\n\nfunc inTest() int { return 1 }\n",
	"d_plan9.go": "package p\n\nfunc inPlan9() int { return 1 }\n",
}

func readTestSources(t *testing.T) (dir string, _ sources) {
	t.Helper()
	dir = writeFiles(t, files)
	read, err := readSources(dir)
	if err != nil {
		t.Fatal(err)
	}
	return dir, read
}

func TestFind(t *testing.T) {
	_, read := readTestSources(t)
	for _, test := range []struct{ function, text, want string }{
		{"plain", "n + 1", "a.go"},
		{"table.count", "len(names)", "a.go"},
		{"list.clear", "println", "a.go"},
		{"sub/queue.clear", "if force", "b.go"},
		{"missing", "n", "mutations.txt:7: no function missing in ."},
		{"sub/table.clear", "n", "mutations.txt:7: no function table.clear in ./sub"},
		{"clear", "println", "no function clear"},
		{"inTest", "1", "no function inTest"},
		{"inPlan9", "1", "no function inPlan9"},
		{"table.count", "n++", "mutations.txt:7: the text occurs 2 times in table.count, want once"},
		{"plain", "n - 1", "the text occurs 0 times"},
		{"plain", "int", "the text occurs 0 times"}, // only outside the body
	} {
		s, fn, at, err := read.find(&mutation{line: 7, function: test.function, oldText: test.text})
		switch {
		case err != nil:
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("%s: %v, want %q", test.function, err, test.want)
			}
		case filepath.Base(s.name) != test.want:
			t.Errorf("%s is in %s, want %s", test.function, s.name, test.want)
		case !strings.HasPrefix(string(s.text[at:]), test.text) || s.offset(fn.Pos()) > at || s.offset(fn.End()) < at:
			t.Errorf("%s: %q is not at offset %d", test.function, test.text, at)
		}
	}
}

// TestMutatedFiles mutates functions of two files, one of them twice, and checks
// that the result compiles and that each function calls its mutated copies.
func TestMutatedFiles(t *testing.T) {
	dir, read := readTestSources(t)
	texts, err := read.mutatedFiles([]mutation{
		{line: 3, function: "plain", oldText: "n + 1", newText: "n"},
		{line: 9, function: "queue.clear", oldText: "force {", newText: "!force {"},
		{line: 21, function: "table.count", oldText: "len(names)", newText: "0"},
		{line: 30, function: "plain", oldText: "+ 1", newText: "- 1"},
	})
	if err != nil {
		t.Fatal(err)
	}
	changed := slices.Sorted(maps.Keys(texts))
	if want := []string{filepath.Join(dir, "a.go"), filepath.Join(dir, "b.go")}; !slices.Equal(changed, want) {
		t.Fatalf("files %q change, want %q", changed, want)
	}

	fset := token.NewFileSet()
	parsed, err := parser.ParseFile(fset, "selected.go", "package p\n\nvar mutation int\n", 0)
	if err != nil {
		t.Fatal(err)
	}
	parsedFiles := []*ast.File{parsed}
	calls := make(map[string][]string)
	for name, text := range texts {
		f, err := parser.ParseFile(fset, name, text, 0)
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		parsedFiles = append(parsedFiles, f)
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok {
				calls[functionName(fn)] = mutatedCalls(fn)
			}
		}
	}
	config := types.Config{Importer: importer.Default()}
	if _, err := config.Check("p", fset, parsedFiles, nil); err != nil {
		t.Errorf("the mutated files do not compile: %v", err)
	}
	for function, want := range map[string]string{
		"plain":               "plainMutated3(n) plainMutated30(n)",
		"plainMutated3":       "",
		"plainMutated30":      "",
		"queue.clear":         "q.clearMutated9(force)",
		"queue.clearMutated9": "",
		"table.count":         "t.countMutated21(names...)",
		"list.clear":          "",
	} {
		if got, ok := calls[function]; !ok || strings.Join(got, " ") != want {
			t.Errorf("%s calls %q (exists: %t), want %q", function, got, ok, want)
		}
	}
	a := string(texts[filepath.Join(dir, "a.go")])
	for _, want := range []string{
		"func plain(n int) int { if mutation == 3 {", "\n//line mutations.txt:3\nfunc plainMutated3(n int) int { return n }\n",
		"func plainMutated30(n int) int { return n - 1 }\n", "return n + 0, nil",
	} {
		if !strings.Contains(a, want) {
			t.Errorf("%q is missing in\n%s", want, a)
		}
	}
}

// mutatedCalls returns the calls of mutated copies in fn.
func mutatedCalls(fn *ast.FuncDecl) (calls []string) {
	ast.Inspect(fn.Body, func(n ast.Node) bool {
		if call, ok := n.(*ast.CallExpr); ok {
			if function := types.ExprString(call.Fun); strings.Contains(function, "Mutated") {
				calls = append(calls, types.ExprString(call))
			}
		}
		return true
	})
	return calls
}

func TestMutatedFilesErrors(t *testing.T) {
	_, read := readTestSources(t)
	for _, test := range []struct{ function, text string }{
		{"list.clear", "println"}, // receiver
		{"unnamed", "println"},
		{"blank", "println"},
	} {
		_, err := read.mutatedFiles([]mutation{{line: 5, function: test.function, oldText: test.text}})
		if want := "mutations.txt:5: " + test.function + " has a receiver or parameter without a name"; err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
	if _, err := read.mutatedFiles([]mutation{{line: 5, function: "missing"}}); err == nil {
		t.Error("a missing function has no error")
	}
	if _, err := readSources(writeFiles(t, map[string]string{"a.go": "no Go"})); err == nil {
		t.Error("a file that is no Go has no error")
	}
}
