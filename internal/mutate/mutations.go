package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
)

// A mutation is a mistake that the tests must notice.
//
// All mutations of a package are compiled into one test binary: a mutation
// lies in one function, so that function gets a mutated copy, and calls the
// copy instead of doing its work if an environment variable says so. The
// sources stay as they are: the go command reads the mutated ones from an
// overlay.
type mutation struct {
	line     int    // in mutations.txt
	area     string // that it belongs to
	mistake  string // what is wrong
	file     string // from the root of the repository
	tests    string // regular expression: each of these can notice, and one must
	old, new string // text of the file; old occurs once
}

// pkg is the directory of the package, as the go command wants it.
func (m *mutation) pkg() string {
	if dir := path.Dir(m.file); dir != "." {
		return "./" + dir
	}
	return "."
}

// readMutations reads the list, in which an area has a headline and a mutation
// is a paragraph:
//
//	# handshake
//
//	a replayed initiation is accepted
//	exchange.go TestP06
//	-!stamp.after(p.greatestStamp)
//	+false
func readMutations(root string) (mutations []mutation, err error) {
	text, err := os.ReadFile(filepath.Join(root, testdata+"mutations.txt"))
	if err != nil {
		return nil, err
	}
	area, line := "", 1
	for paragraph := range strings.SplitSeq(string(text), "\n\n") {
		lines := strings.Split(strings.Trim(paragraph, "\n"), "\n")
		at := line
		line += strings.Count(paragraph, "\n") + 2
		if headline, ok := strings.CutPrefix(paragraph, "# "); ok {
			area = headline
			continue
		}
		m := mutation{line: at, area: area, mistake: lines[0]}
		if len(lines) > 1 {
			m.file, m.tests, _ = strings.Cut(lines[1], " ")
		}
		var old, new []string
		for _, l := range lines[min(2, len(lines)):] {
			if text, ok := strings.CutPrefix(l, "-"); ok && new == nil {
				old = append(old, text)
			} else if text, ok := strings.CutPrefix(l, "+"); ok {
				new = append(new, text)
			} else {
				return nil, fmt.Errorf("mutations.txt:%d: %q is out of place", at, l)
			}
		}
		m.old, m.new = strings.Join(old, "\n"), strings.Join(new, "\n")
		if m.area == "" || m.tests == "" || m.old == "" || m.old == m.new {
			return nil, fmt.Errorf("mutations.txt:%d: incomplete", at)
		}
		mutations = append(mutations, m)
	}
	return mutations, nil
}

// A source is a file with mutations.
type source struct {
	text []byte
	file *ast.File
	base token.Pos // of text
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
	return &source{text, f, f.FileStart}, nil
}

func (s *source) offset(p token.Pos) int { return int(p - s.base) }

// function returns the function that m changes, and where in the text.
func (s *source) function(m *mutation) (fn *ast.FuncDecl, at int, err error) {
	at = bytes.Index(s.text, []byte(m.old))
	if n := bytes.Count(s.text, []byte(m.old)); n != 1 {
		return nil, 0, fmt.Errorf("mutations.txt:%d: the text is %d times in %s, not once", m.line, n, m.file)
	}
	for _, d := range s.file.Decls {
		fn, ok := d.(*ast.FuncDecl)
		if ok && fn.Body != nil && s.offset(fn.Body.Lbrace) <= at && at+len(m.old) <= s.offset(fn.Body.End()) {
			return fn, at, nil
		}
	}
	return nil, 0, fmt.Errorf("mutations.txt:%d: the text is not in the body of one function of %s", m.line, m.file)
}

// mutated returns the source with copies of functions as mutations say, each
// of which goes by its line in the list.
func (s *source) mutated(mutations []mutation) ([]byte, error) {
	type insertion struct {
		at   int
		text string
	}
	var heads []insertion
	var copies bytes.Buffer
	for i := range mutations {
		m := &mutations[i]
		fn, at, err := s.function(m)
		if err != nil {
			return nil, err
		}
		call, err := s.callOf(fn, m)
		if err != nil {
			return nil, err
		}
		heads = append(heads, insertion{s.offset(fn.Body.Lbrace) + 1, fmt.Sprintf(" if mutation == %d { %s };", m.line, call)})

		name, end := s.offset(fn.Name.End()), s.offset(fn.End())
		// The compiler finds fault with the list, not with the copy.
		fmt.Fprintf(&copies, "\n//line mutations.txt:%d\n", m.line)
		copies.Write(s.text[s.offset(fn.Pos()):name])
		fmt.Fprintf(&copies, "Mutated%d", m.line)
		copies.Write(s.text[name:at])
		copies.WriteString(m.new)
		copies.Write(s.text[at+len(m.old) : end])
		copies.WriteByte('\n')
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
	b.Write(copies.Bytes())
	return b.Bytes(), nil
}

// callOf is the statement that does the work of fn by a call of its copy.
func (s *source) callOf(fn *ast.FuncDecl, m *mutation) (string, error) {
	var call strings.Builder
	unnamed := fmt.Errorf("mutations.txt:%d: %s has parameters without name", m.line, fn.Name)
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

// variable holds the line of the mutation to make in the environment.
const variable = "MUTATION"

// build compiles the tests of a package with its mutations in it, as binary.
func build(root, pkg, binary string, mutations []mutation) error {
	dir, err := os.MkdirTemp("", "mutations")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var overlay struct{ Replace map[string]string }
	overlay.Replace = make(map[string]string)
	add := func(name string, text []byte) error {
		abs, err := filepath.Abs(filepath.Join(root, filepath.FromSlash(name)))
		if err != nil {
			return err
		}
		mutated := filepath.Join(dir, filepath.Base(abs))
		overlay.Replace[abs] = mutated
		return os.WriteFile(mutated, text, 0o666)
	}

	byFile := make(map[string][]mutation)
	for _, m := range mutations {
		byFile[m.file] = append(byFile[m.file], m)
	}
	name := ""
	for file, ms := range byFile {
		s, err := readSource(filepath.Join(root, filepath.FromSlash(file)))
		if err != nil {
			return err
		}
		text, err := s.mutated(ms)
		if err != nil {
			return err
		}
		if err := add(file, text); err != nil {
			return err
		}
		name = s.file.Name.Name
	}
	choice := fmt.Sprintf("package %s\n\nimport (\"os\"; \"strconv\")\n\nvar mutation, _ = strconv.Atoi(os.Getenv(%q))\n", name, variable)
	if err := add(path.Join(pkg, "mutation_chosen.go"), []byte(choice)); err != nil {
		return err
	}
	list, err := json.Marshal(overlay)
	if err != nil {
		return err
	}
	overlayFile := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(overlayFile, list, 0o666); err != nil {
		return err
	}
	cmd := exec.Command("go", "test", "-c", "-overlay", overlayFile, "-o", binary, pkg)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s does not compile with mutations: %w\n%s", pkg, err, out)
	}
	return nil
}

var failure = regexp.MustCompile(`(?m)^\s*--- FAIL: (\S+)|^panic: (.*)|^fatal error: (.*)`)

// test runs tests with the mutation of that line, 0 for none, and returns what
// noticed, nothing if all pass. A mutation may have tests wait for ever.
func test(ctx context.Context, root, pkg, binary, tests string, line int) (noticed string, err error) {
	timeout := "20s"
	if line == 0 {
		timeout = "10m"
	}
	cmd := exec.CommandContext(ctx, binary, "-test.run", tests, "-test.short", "-test.failfast", "-test.timeout", timeout)
	cmd.Dir = filepath.Join(root, filepath.FromSlash(pkg))
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", variable, line))
	out, err := cmd.CombinedOutput()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		return "", err
	}
	switch m := failure.FindSubmatch(out); {
	case bytes.Contains(out, []byte("testing: warning: no tests to run")):
		return "", fmt.Errorf("mutations.txt:%d: no test is called %s", line, tests)
	case err == nil:
		return "", nil
	case m != nil:
		return string(bytes.Join(m[1:], nil)), nil
	}
	return err.Error(), nil
}

// mutate makes all mutations, prints whether the tests noticed, and returns
// how many survived.
func mutate(root string, mutations []mutation) (survivors int, err error) {
	dir, err := os.MkdirTemp("", "tests")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	root, err = filepath.Abs(root)
	if err != nil {
		return 0, err
	}

	byPackage := make(map[string][]mutation)
	for _, m := range mutations {
		byPackage[m.pkg()] = append(byPackage[m.pkg()], m)
	}
	binaries := make(map[string]string)
	for pkg, ms := range byPackage {
		binary := filepath.Join(dir, fmt.Sprintf("%d.test", len(binaries)))
		binaries[pkg] = binary
		if err := build(root, pkg, binary, ms); err != nil {
			return 0, err
		}
		// What notices without a mistake proves nothing.
		var all []string
		for _, m := range ms {
			all = append(all, m.tests)
		}
		noticed, err := test(context.Background(), root, pkg, binary, strings.Join(all, "|"), 0)
		if err != nil {
			return 0, err
		}
		if noticed != "" {
			return 0, fmt.Errorf("%s fails without any mutation: %s", pkg, noticed)
		}
	}

	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	noticed := make([]string, len(mutations))
	var group sync.WaitGroup
	next := make(chan int)
	for range runtime.GOMAXPROCS(0) {
		group.Go(func() {
			for i := range next {
				m := &mutations[i]
				var err error
				if noticed[i], err = test(ctx, root, m.pkg(), binaries[m.pkg()], m.tests, m.line); err != nil {
					cancel(err)
				}
			}
		})
	}
	for i := range mutations {
		next <- i
	}
	close(next)
	group.Wait()
	if err := context.Cause(ctx); err != nil {
		return 0, err
	}
	return printMutations(mutations, noticed), nil
}

// areasOf returns the areas in their order and how many mutations each has.
func areasOf(mutations []mutation) (areas []string, total map[string]int) {
	total = make(map[string]int)
	for _, m := range mutations {
		if total[m.area]++; total[m.area] == 1 {
			areas = append(areas, m.area)
		}
	}
	return areas, total
}

// printMutations prints what noticed each mutation, a summary, and what
// survived, and returns how many those are.
func printMutations(mutations []mutation, noticed []string) (survivors int) {
	areas, total := areasOf(mutations)
	killed := make(map[string]int)
	area := ""
	for i, m := range mutations {
		if m.area != area {
			area = m.area
			fmt.Printf("\n%s\n", area)
		}
		fmt.Printf("  %s: %s\n", m.mistake, cmp.Or(noticed[i], "SURVIVES"))
		if noticed[i] != "" {
			killed[area]++
		} else {
			survivors++
		}
	}
	fmt.Println()
	for _, area := range areas {
		fmt.Printf("%s: %d of %d mutations killed\n", area, killed[area], total[area])
	}
	fmt.Printf("all: %d of %d mutations killed\n", len(mutations)-survivors, len(mutations))
	for i, m := range mutations {
		if noticed[i] == "" {
			fmt.Printf("\nSURVIVES: %s (mutations.txt:%d). %s in %s should notice:\n-%s\n+%s\n", m.mistake, m.line, m.tests, m.pkg(),
				strings.ReplaceAll(m.old, "\n", "\n-"), strings.ReplaceAll(m.new, "\n", "\n+"))
		}
	}
	return survivors
}
