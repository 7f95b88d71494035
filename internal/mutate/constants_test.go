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
const (
	first = 1 << iota
	second
	third
)
var _ = first
var x struct{ field int }
var _ = x.field
`,
		"p_windows.go": "var _ = perSystem\n",
		"p_test.go":    "var _, _ = inTest, second\nconst testOnly, testUnused = 1, 2\nvar _ = testOnly\n",
	})
	got, err := unusedConstants(dir)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "p")
	want := []string{
		file + ".go:10: field", file + ".go:15: third", file + ".go:4: unused", file + ".go:9: inTest",
		file + "_test.go:3: testUnused",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// unusedConstants returns the position and the name of each unexported
// package-level constant that no file in dir uses, whatever system the file is
// built for. Tests count for the constants that they declare, and for those that
// have the value above them: iota counts them, and tests may need one that the
// code does not. It goes by names alone: a variable of the same name in a function
// counts as a use.
func unusedConstants(dir string) (unused []string, err error) {
	names, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return nil, err
	}
	// The tests of a package are a part of their own, and so is an external test
	// package.
	type part struct {
		pkg   string
		tests bool
	}
	fset := token.NewFileSet()
	declared := make(map[part][]constant)
	uses := make(map[part]map[string]int)
	for _, name := range names {
		f, err := parser.ParseFile(fset, name, nil, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		in := part{f.Name.Name, strings.HasSuffix(name, "_test.go")}
		declared[in] = append(declared[in], packageConstants(f)...)
		if uses[in] == nil {
			uses[in] = make(map[string]int)
		}
		countNames(f, uses[in])
	}
	for in, constants := range declared {
		for _, c := range constants {
			isUsed := uses[in][c.Name] > 1 // more than its declaration
			if c.isImplicit && !in.tests {
				isUsed = isUsed || uses[part{in.pkg, true}][c.Name] > 0
			}
			if !isUsed {
				p := fset.Position(c.Pos())
				p.Column = 0
				unused = append(unused, p.String()+": "+c.Name)
			}
		}
	}
	slices.Sort(unused)
	return unused, nil
}

// A constant is an unexported package-level one.
type constant struct {
	*ast.Ident
	isImplicit bool // has the value of the constant above it
}

// packageConstants returns the unexported package-level constants of f.
func packageConstants(f *ast.File) (constants []constant) {
	for _, d := range f.Decls {
		group, ok := d.(*ast.GenDecl)
		if !ok || group.Tok != token.CONST {
			continue
		}
		for _, spec := range group.Specs {
			spec := spec.(*ast.ValueSpec)
			for _, name := range spec.Names {
				if name.Name != "_" && !name.IsExported() {
					constants = append(constants, constant{name, len(spec.Values) == 0})
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
