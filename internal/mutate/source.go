package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"go/ast"
	"go/build"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A goPackage holds the functions of a package as built for one system,
// without its tests.
type goPackage struct {
	name         string
	declarations map[string]declaration // by name as in function.name
}

// A declaration is a function with the file that it is in.
type declaration struct {
	*ast.FuncDecl
	file *sourceFile
}

// A sourceFile is a Go file with its syntax tree.
type sourceFile struct {
	name string
	text []byte
	base token.Pos // position of text
}

func (f *sourceFile) offset(p token.Pos) int { return int(p - f.base) }

// readPackage parses the package in dir as built for goos.
func readPackage(dir, goos string) (*goPackage, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	target := build.Default
	target.GOOS = goos
	p := &goPackage{declarations: make(map[string]declaration)}
	for _, entry := range entries {
		name := entry.Name()
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			continue
		}
		built, err := target.MatchFile(dir, name)
		if err != nil {
			return nil, err
		}
		if !built {
			continue
		}
		if err := p.parseFile(filepath.Join(dir, name)); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// parseFile adds the functions of a file to p.
func (p *goPackage) parseFile(name string) error {
	text, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	tree, err := parser.ParseFile(token.NewFileSet(), name, text, parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	p.name = tree.Name.Name
	file := &sourceFile{name, text, tree.FileStart}
	for _, d := range tree.Decls {
		if fn, ok := d.(*ast.FuncDecl); ok && fn.Body != nil {
			p.declarations[declaredName(fn)] = declaration{fn, file}
		}
	}
	return nil
}

// declaredName returns the name of a function, or Type.method.
func declaredName(fn *ast.FuncDecl) string {
	if fn.Recv == nil {
		return fn.Name.Name
	}
	receiver := fn.Recv.List[0].Type
	for {
		switch t := receiver.(type) {
		case *ast.StarExpr:
			receiver = t.X
		case *ast.IndexExpr: // of a generic type
			receiver = t.X
		case *ast.IndexListExpr:
			receiver = t.X
		case *ast.Ident:
			return t.Name + "." + fn.Name.Name
		default:
			return fn.Name.Name
		}
	}
}

// An edit is what a mutation changes in a file.
type edit struct {
	fn     declaration
	offset int    // of the text to replace
	call   string // statement that does the work of fn by calling its mutated copy
}

// locate finds the text that m replaces.
func (p *goPackage) locate(m *mutation) (edit, error) {
	fn, ok := p.declarations[m.function.name]
	if !ok {
		return edit{}, m.errorf("function %s not found", m.function)
	}
	start := fn.file.offset(fn.Body.Lbrace)
	body := fn.file.text[start:fn.file.offset(fn.Body.End())]
	switch n := bytes.Count(body, []byte(m.old)); {
	case n == 0:
		return edit{}, m.errorf("text not found in %s: %q", m.function, m.old)
	case n > 1:
		return edit{}, m.errorf("text occurs %d times in %s: %q", n, m.function, m.old)
	}
	call, err := callOfCopy(fn.FuncDecl, m.line)
	if err != nil {
		return edit{}, m.errorf("%s has %w", m.function, err)
	}
	return edit{fn, start + bytes.Index(body, []byte(m.old)), call}, nil
}

var errUnnamedParameter = errors.New("a parameter without a name, which a call of its copy needs")

// callOfCopy returns the statement that does the work of fn by calling its
// copy with the mutation of that line.
func callOfCopy(fn *ast.FuncDecl, line int) (string, error) {
	var call strings.Builder
	if fn.Recv != nil {
		names := fn.Recv.List[0].Names
		if len(names) == 0 || names[0].Name == "_" {
			return "", errUnnamedParameter
		}
		call.WriteString(names[0].Name + ".")
	}
	fmt.Fprintf(&call, "%sMutated%d(", fn.Name, line)
	for _, p := range fn.Type.Params.List {
		if len(p.Names) == 0 {
			return "", errUnnamedParameter
		}
		for _, name := range p.Names {
			if name.Name == "_" {
				return "", errUnnamedParameter
			}
			call.WriteString(name.Name)
			if _, ok := p.Type.(*ast.Ellipsis); ok {
				call.WriteString("...")
			}
			call.WriteString(", ")
		}
	}
	call.WriteByte(')')
	if fn.Type.Results != nil {
		return "return " + call.String(), nil
	}
	return call.String() + "; return", nil
}

// mutateFiles returns the text of each file that the mutations change, by the
// name of the file. A mutated function keeps its body, and starts with the
// choice of calling one of its copies, each of which has one mutation.
func (p *goPackage) mutateFiles(mutations []mutation) (map[string][]byte, error) {
	type insertion struct {
		offset int
		text   string
	}
	choices := make(map[*sourceFile][]insertion)
	copies := make(map[*sourceFile]*bytes.Buffer)
	for i := range mutations {
		m := &mutations[i]
		e, err := p.locate(m)
		if err != nil {
			return nil, err
		}
		file := e.fn.file
		if copies[file] == nil {
			copies[file] = new(bytes.Buffer)
		}
		choices[file] = append(choices[file], insertion{
			file.offset(e.fn.Body.Lbrace) + 1,
			fmt.Sprintf(" if mutation == %d { %s };", m.line, e.call),
		})
		e.writeCopy(copies[file], m)
	}

	texts := make(map[string][]byte)
	for file, insertions := range choices {
		slices.SortStableFunc(insertions, func(a, b insertion) int { return cmp.Compare(a.offset, b.offset) })
		var b bytes.Buffer
		written := 0
		for _, in := range insertions {
			b.Write(file.text[written:in.offset])
			b.WriteString(in.text)
			written = in.offset
		}
		b.Write(file.text[written:])
		b.Write(copies[file].Bytes())
		texts[file.name] = b.Bytes()
	}
	return texts, nil
}

// writeCopy writes the function of e with the mutation m.
func (e *edit) writeCopy(b *bytes.Buffer, m *mutation) {
	file := e.fn.file
	nameEnd := file.offset(e.fn.Name.End())
	// A compiler error in the copy is reported at the mutation's line.
	fmt.Fprintf(b, "\n//line mutations.txt:%d\n", m.line)
	b.Write(file.text[file.offset(e.fn.Pos()):nameEnd])
	fmt.Fprintf(b, "Mutated%d", m.line)
	b.Write(file.text[nameEnd:e.offset])
	b.WriteString(m.new)
	b.Write(file.text[e.offset+len(m.old) : file.offset(e.fn.End())])
	b.WriteByte('\n')
}
