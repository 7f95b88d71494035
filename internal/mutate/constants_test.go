package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestConstantsAreUsed checks all modules of the repository. Staticcheck reports
// an unused constant only if all constants of its group are unused.
func TestConstantsAreUsed(t *testing.T) {
	if _, err := os.Stat(root + "/bench/go.mod"); err != nil {
		t.Skip("not in the repository, which has other modules too")
	}
	directories := make(map[string][]string)
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if base := d.Name(); d.IsDir() && name != root && (base == "testdata" || base == "vendor" || base[0] == '.') {
			return filepath.SkipDir
		}
		if strings.HasSuffix(name, ".go") {
			directories[filepath.Dir(name)] = append(directories[filepath.Dir(name)], name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, names := range directories {
		unused, err := unusedConstants(names)
		if err != nil {
			t.Fatal(err)
		}
		for _, u := range unused {
			t.Error(u)
		}
	}
}

// unusedConstants returns the unexported package-level constants that none of the
// given files of one directory uses, whatever build tags the files have. A use in
// a test counts for the constants of tests only.
func unusedConstants(names []string) (unused []string, err error) {
	fset := token.NewFileSet()
	var declared []*ast.Ident
	used := make(map[string]bool) // in files that are not tests
	usedInTests := make(map[string]bool)
	for _, name := range names {
		f, err := parser.ParseFile(fset, name, nil, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		constants := constantsOf(f)
		declared = append(declared, constants...)
		uses := used
		if strings.HasSuffix(name, "_test.go") {
			uses = usedInTests
		}
		addUses(uses, f, constants)
	}
	for _, c := range declared {
		position := fset.Position(c.Pos())
		if !used[c.Name] && !(strings.HasSuffix(position.Filename, "_test.go") && usedInTests[c.Name]) {
			unused = append(unused, fmt.Sprintf("%s:%d: constant %s is not used", position.Filename, position.Line, c.Name))
		}
	}
	return unused, nil
}

// constantsOf returns the unexported package-level constants that f declares.
func constantsOf(f *ast.File) (constants []*ast.Ident) {
	for _, d := range f.Decls {
		group, ok := d.(*ast.GenDecl)
		if !ok || group.Tok != token.CONST {
			continue
		}
		for _, spec := range group.Specs {
			for _, id := range spec.(*ast.ValueSpec).Names {
				if !id.IsExported() && id.Name != "_" {
					constants = append(constants, id)
				}
			}
		}
	}
	return constants
}

// addUses adds the identifiers below n, except for the declared ones and for
// selected fields, methods and names of other packages. An identifier of an inner
// scope that hides a constant counts as a use of it.
func addUses(uses map[string]bool, n ast.Node, declared []*ast.Ident) {
	ast.Inspect(n, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.SelectorExpr:
			addUses(uses, n.X, declared)
			return false
		case *ast.Ident:
			if !slices.Contains(declared, n) {
				uses[n.Name] = true
			}
		}
		return true
	})
}

func TestUnusedConstants(t *testing.T) {
	dir := writeFiles(t, map[string]string{
		"a.go": `package p

const (
	used   = 1
	unused = 2
	onlyInTests
	onOtherSystem
	inConstant
	Exported = inConstant
	_
	field
)

func f(v struct{ field int }) { println(v.field, used); const local = 1 }
`,
		"a_plan9.go": "package p\n\nconst plan9 = onOtherSystem",
		"a_test.go":  "package p_test\n\nconst inTest, unusedInTest = onlyInTests, 2\n\nvar v = inTest\n",
	})
	path := func(name string) string { return filepath.Join(dir, name) }
	unused, err := unusedConstants([]string{path("a.go"), path("a_plan9.go"), path("a_test.go")})
	want := []string{
		path("a.go:5: constant unused is not used"),
		path("a.go:6: constant onlyInTests is not used"),
		path("a.go:11: constant field is not used"),
		path("a_plan9.go:3: constant plan9 is not used"),
		path("a_test.go:3: constant unusedInTest is not used"),
	}
	if err != nil || !slices.Equal(unused, want) {
		t.Errorf("%v\n%s\nwant\n%s", err, strings.Join(unused, "\n"), strings.Join(want, "\n"))
	}
}
