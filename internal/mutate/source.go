package main

import (
	"bytes"
	"cmp"
	"fmt"
	"go/ast"
	gobuild "go/build"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A source is a file of a package.
type source struct {
	name string // path of the file
	text []byte
	file *ast.File
	base token.Pos // of the first byte of text
}

// sources are the files of a package that this system compiles, without tests.
type sources []*source

// readSources reads the files of the package in dir.
func readSources(dir string) (sources, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var files sources
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".go") || strings.HasSuffix(e.Name(), "_test.go") {
			continue
		}
		if built, err := gobuild.Default.MatchFile(dir, e.Name()); err != nil || !built {
			continue
		}
		s, err := readSource(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		files = append(files, s)
	}
	return files, nil
}

// find returns the function that m changes, and the offset of the changed text
// in its source.
func (files sources) find(m *mutation) (s *source, fn *ast.FuncDecl, at int, err error) {
	for _, s = range files {
		for _, d := range s.file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Body != nil && functionName(f) == m.name() {
				fn = f
			}
		}
		if fn != nil {
			break
		}
	}
	if fn == nil {
		return nil, nil, 0, m.errorf("no function %s in %s", m.name(), m.pkg())
	}
	start, end := s.offset(fn.Body.Lbrace), s.offset(fn.Body.End())
	body := s.text[start:end]
	if n := bytes.Count(body, []byte(m.oldText)); n != 1 {
		return nil, nil, 0, m.errorf("the text occurs %d times in %s, want once", n, m.function)
	}
	return s, fn, start + bytes.Index(body, []byte(m.oldText)), nil
}

// functionName returns the name of a function as mutations.txt writes it.
func functionName(fn *ast.FuncDecl) string {
	if fn.Recv == nil {
		return fn.Name.Name
	}
	t := fn.Recv.List[0].Type
	if star, ok := t.(*ast.StarExpr); ok {
		t = star.X
	}
	switch generic := t.(type) {
	case *ast.IndexExpr:
		t = generic.X
	case *ast.IndexListExpr:
		t = generic.X
	}
	if id, ok := t.(*ast.Ident); ok {
		return id.Name + "." + fn.Name.Name
	}
	return fn.Name.Name
}

func readSource(name string) (*source, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, name, text, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	return &source{name, text, f, f.FileStart}, nil
}

func (s *source) offset(p token.Pos) int { return int(p - s.base) }

// mutatedFiles returns the new text of each file that mutations change, by its
// path. The text has a copy of the function for each mutation; the name of the
// copy ends in the line of the mutation.
func (files sources) mutatedFiles(mutations []mutation) (map[string][]byte, error) {
	bySource := make(map[*source][]mutation)
	for i := range mutations {
		s, _, _, err := files.find(&mutations[i])
		if err != nil {
			return nil, err
		}
		bySource[s] = append(bySource[s], mutations[i])
	}
	texts := make(map[string][]byte)
	for s, ms := range bySource {
		text, err := s.mutatedText(ms)
		if err != nil {
			return nil, err
		}
		texts[s.name] = text
	}
	return texts, nil
}

// mutatedText returns the text of the file with mutations, all of this file.
func (s *source) mutatedText(mutations []mutation) ([]byte, error) {
	type insertion struct {
		at   int
		text string
	}
	var heads []insertion
	var mutatedFunctions bytes.Buffer
	for i := range mutations {
		m := &mutations[i]
		_, fn, at, err := sources{s}.find(m)
		if err != nil {
			return nil, err
		}
		call, err := s.callOf(fn, m)
		if err != nil {
			return nil, err
		}
		heads = append(heads, insertion{s.offset(fn.Body.Lbrace) + 1, fmt.Sprintf(" if mutation == %d { %s };", m.line, call)})

		name, end := s.offset(fn.Name.End()), s.offset(fn.End())
		// The compiler then reports errors with the line of the list.
		fmt.Fprintf(&mutatedFunctions, "\n//line mutations.txt:%d\n", m.line)
		mutatedFunctions.Write(s.text[s.offset(fn.Pos()):name])
		fmt.Fprintf(&mutatedFunctions, "Mutated%d", m.line)
		mutatedFunctions.Write(s.text[name:at])
		mutatedFunctions.WriteString(m.newText)
		mutatedFunctions.Write(s.text[at+len(m.oldText) : end])
		mutatedFunctions.WriteByte('\n')
	}
	slices.SortStableFunc(heads, func(a, b insertion) int { return cmp.Compare(a.at, b.at) })
	var b bytes.Buffer
	from := 0
	for _, h := range heads {
		b.Write(s.text[from:h.at])
		b.WriteString(h.text)
		from = h.at
	}
	b.Write(s.text[from:])
	b.Write(mutatedFunctions.Bytes())
	return b.Bytes(), nil
}

// callOf returns the statement that calls the copy of fn for m and returns.
func (s *source) callOf(fn *ast.FuncDecl, m *mutation) (string, error) {
	var call strings.Builder
	unnamed := m.errorf("%s has a receiver or parameter without a name", m.function)
	if fn.Recv != nil {
		names := fn.Recv.List[0].Names
		if len(names) == 0 {
			return "", unnamed
		}
		call.WriteString(names[0].Name + ".")
	}
	fmt.Fprintf(&call, "%sMutated%d(", fn.Name, m.line)
	for _, p := range fn.Type.Params.List {
		if len(p.Names) == 0 {
			return "", unnamed
		}
		for _, name := range p.Names {
			if name.Name == "_" {
				return "", unnamed
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
