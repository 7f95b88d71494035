package wireguard_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestEveryNameIsExplained compares the exported names with docs/api.md, which
// says what each is for.
func TestEveryNameIsExplained(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("docs", "api.md"))
	if err != nil {
		t.Fatal(err)
	}
	listed := make(map[string]bool)
	for _, code := range regexp.MustCompile("`([A-Za-z0-9.]+)`").FindAllStringSubmatch(string(page), -1) {
		listed[code[1]] = true
	}
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	names := 0
	want := func(pos string, name string) {
		last := name[strings.LastIndexByte(name, '.')+1:]
		if !ast.IsExported(last) {
			return
		}
		names++
		if !listed[name] && !listed[last] {
			t.Errorf("%s: docs/api.md does not explain %s", pos, name)
		}
	}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range f.Decls {
			for _, name := range declaredNames(decl) {
				want(file, name)
			}
		}
	}
	if names < 50 {
		t.Errorf("%d exported names found", names)
	}
}

// ofText has the methods that types have for fmt, encoding and errors, which need
// no explanation.
var ofText = map[string]bool{
	"String": true, "Format": true, "MarshalText": true, "UnmarshalText": true, "IsZero": true,
	"Error": true, "Unwrap": true, "LogValue": true, "Timeout": true,
}

// declaredNames returns the names that a declaration adds to the package: Type.Method
// for a method of an exported type.
func declaredNames(decl ast.Decl) (names []string) {
	switch d := decl.(type) {
	case *ast.FuncDecl:
		if d.Recv == nil {
			return []string{d.Name.Name}
		}
		receiver := d.Recv.List[0].Type
		if p, ok := receiver.(*ast.StarExpr); ok {
			receiver = p.X
		}
		if id, ok := receiver.(*ast.Ident); ok && id.IsExported() && !ofText[d.Name.Name] {
			return []string{id.Name + "." + d.Name.Name}
		}
	case *ast.GenDecl:
		for _, s := range d.Specs {
			switch s := s.(type) {
			case *ast.TypeSpec:
				names = append(names, s.Name.Name)
			case *ast.ValueSpec:
				for _, id := range s.Names {
					if !strings.HasPrefix(id.Name, "Drop") {
						names = append(names, id.Name)
					}
				}
			}
		}
	}
	return names
}
