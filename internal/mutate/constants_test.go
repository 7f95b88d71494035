package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestConstantsAreUsed finds unexported package-level constants that nothing
// uses. staticcheck does not report them in a group of constants of which one
// is used.
func TestConstantsAreUsed(t *testing.T) {
	err := filepath.WalkDir(root, func(dir string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case !d.IsDir():
			return nil
		case dir != root && (d.Name() == "testdata" || d.Name() == "vendor" || d.Name()[0] == '.'):
			return filepath.SkipDir
		}
		unused, err := unusedConstants(dir)
		for _, position := range unused {
			t.Errorf("%s: this constant is not used", strings.TrimPrefix(position, filepath.Clean(root)+"/"))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestUnusedConstants(t *testing.T) {
	dir := writePackage(t, map[string]string{
		"p.go": `
const (
	unused = 1
	Exported = 2
	_ = 3
	inExpression = 4
	perSystem = inExpression
	inTest = 5
	field = 6
)
var x struct{ field int }
var _ = x.field
`,
		"p_windows.go": "var _ = perSystem\n",
		"p_test.go":    "var _ = inTest\n",
	})
	got, err := unusedConstants(dir)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "p.go")
	if want := []string{file + ":4: unused", file + ":10: field"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// unusedConstants returns the position and the name of each unexported
// package-level constant that no file in dir uses, whatever system the file is
// built for. It goes by names alone: a variable of the same name in a function
// counts as a use.
func unusedConstants(dir string) (unused []string, err error) {
	names, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return nil, err
	}
	fset := token.NewFileSet()
	declared := make(map[string][]*ast.Ident) // by package: dir may have an external test package
	uses := make(map[string]map[string]int)
	for _, name := range names {
		f, err := parser.ParseFile(fset, name, nil, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		pkg := f.Name.Name
		declared[pkg] = append(declared[pkg], packageConstants(f)...)
		if uses[pkg] == nil {
			uses[pkg] = make(map[string]int)
		}
		countNames(f, uses[pkg])
	}
	for pkg, constants := range declared {
		for _, c := range constants {
			if uses[pkg][c.Name] == 1 { // its declaration
				p := fset.Position(c.Pos())
				p.Column = 0
				unused = append(unused, p.String()+": "+c.Name)
			}
		}
	}
	return unused, nil
}

// packageConstants returns the unexported package-level constants of f.
func packageConstants(f *ast.File) (constants []*ast.Ident) {
	for _, d := range f.Decls {
		group, ok := d.(*ast.GenDecl)
		if !ok || group.Tok != token.CONST {
			continue
		}
		for _, spec := range group.Specs {
			for _, name := range spec.(*ast.ValueSpec).Names {
				if name.Name != "_" && !name.IsExported() {
					constants = append(constants, name)
				}
			}
		}
	}
	return constants
}

// countNames adds the identifiers of f to counts, apart from names that cannot
// be a constant of the package: what is selected with a dot, and fields.
func countNames(f *ast.File, counts map[string]int) {
	other := make(map[*ast.Ident]bool)
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.SelectorExpr:
			other[n.Sel] = true
		case *ast.Field:
			for _, name := range n.Names {
				other[name] = true
			}
		case *ast.Ident:
			if !other[n] {
				counts[n.Name]++
			}
		}
		return true
	})
}
