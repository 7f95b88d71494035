package main

import (
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// TestMutationsApply checks that the code has each function of the list with
// the text to replace. It does not run the mutations, which takes minutes.
func TestMutationsApply(t *testing.T) {
	mutations, err := readMutations(root)
	if err != nil {
		t.Fatal(err)
	}
	packages := make(map[function]*goPackage)
	for i := range mutations {
		m := &mutations[i]
		key := function{dir: m.function.dir, goos: m.function.goos}
		if packages[key] == nil {
			if packages[key], err = readPackage(filepath.Join(root, filepath.FromSlash(key.dir)), key.goos); err != nil {
				t.Fatal(m.errorf("%w", err))
			}
		}
		if _, err := packages[key].locate(m); err != nil {
			t.Error(err)
		}
	}
}

// writePackage writes files with the package clause p to a new directory.
func writePackage(t *testing.T, files map[string]string) (dir string) {
	t.Helper()
	withClause := make(map[string]string)
	for name, text := range files {
		withClause[name] = "package p\n" + text
	}
	return writeFiles(t, withClause)
}

func TestLocateChoosesTheSystem(t *testing.T) {
	dir := writePackage(t, map[string]string{
		"f_linux.go":   "func f() { linux() }",
		"f_windows.go": "func f() { windows() }",
		"f_other.go":   "func other() {}",
		"f_test.go":    "func f() { test() }",
	})
	for _, goos := range []string{"linux", "windows"} {
		p, err := readPackage(dir, goos)
		if err != nil {
			t.Fatal(err)
		}
		e, err := p.locate(&mutation{function: function{".", "f", goos}, old: goos, new: "x"})
		if err != nil {
			t.Fatal(err)
		}
		if want := filepath.Join(dir, "f_"+goos+".go"); e.fn.file.name != want {
			t.Errorf("%s: f is in %s, want %s", goos, e.fn.file.name, want)
		}
	}
}

func TestLocateErrors(t *testing.T) {
	dir := writePackage(t, map[string]string{"p.go": `
func once() { a(); b() }
func twice() { a(); a() }
func unnamed(int) { a() }
func (*T[K]) method() { a() }
`})
	p, err := readPackage(dir, runtime.GOOS)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ function, old, want string }{
		{"once", "a()", ""},
		{"absent", "a()", "function absent not found"},
		{"method", "a()", "function method not found"},
		{"once", "c()", "text not found in once"},
		{"once", "once", "text not found in once"},
		{"twice", "a()", "text occurs 2 times in twice"},
		{"unnamed", "a()", "unnamed has a parameter without a name"},
		{"T.method", "a()", "T.method has a parameter without a name"},
	} {
		_, err := p.locate(&mutation{line: 7, function: parseFunction(test.function), old: test.old})
		switch {
		case test.want == "" && err != nil:
			t.Errorf("%s: %v", test.function, err)
		case test.want != "" && (err == nil || !strings.HasPrefix(err.Error(), "mutations.txt:7: "+test.want)):
			t.Errorf("%s: error %v, want mutations.txt:7: %s", test.function, err, test.want)
		}
	}
}

func TestMutateFiles(t *testing.T) {
	dir := writePackage(t, map[string]string{
		"one.go": "func f(n int, rest ...int) bool { return n > 0 }\n",
		"two.go": "func (t *T) g() { t.a() }\n",
	})
	p, err := readPackage(dir, runtime.GOOS)
	if err != nil {
		t.Fatal(err)
	}
	texts, err := p.mutateFiles([]mutation{
		{line: 3, function: parseFunction("f"), old: "n > 0", new: "n >= 0"},
		{line: 8, function: parseFunction("f"), old: "n > 0", new: "true"},
		{line: 13, function: parseFunction("T.g"), old: "t.a()", new: ""},
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"one.go": `package p
func f(n int, rest ...int) bool { if mutation == 3 { return fMutated3(n, rest..., ) }; if mutation == 8 { return fMutated8(n, rest..., ) }; return n > 0 }

//line mutations.txt:3
func fMutated3(n int, rest ...int) bool { return n >= 0 }

//line mutations.txt:8
func fMutated8(n int, rest ...int) bool { return true }
`,
		"two.go": `package p
func (t *T) g() { if mutation == 13 { t.gMutated13(); return }; t.a() }

//line mutations.txt:13
func (t *T) gMutated13() {  }
`,
	} {
		if got := string(texts[filepath.Join(dir, name)]); got != want {
			t.Errorf("%s:\n%s\nwant:\n%s", name, got, want)
		}
	}
}
