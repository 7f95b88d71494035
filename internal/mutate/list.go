package main

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// A mutation is a mistake in the code that the tests must notice.
//
// All mutations of a package are compiled into one test binary. A mutation lies
// in one function. That function gets a mutated copy, and calls the copy instead
// of doing its work when an environment variable selects the mutation. The go
// command reads the mutated sources from an overlay, so that no file changes.
type mutation struct {
	line     int    // in mutations.txt
	area     string // headline that it is listed under
	mistake  string // description
	function string // function or Type.method, after its directory and a slash if that is not the root
	tests    string // regular expression of tests, at least one of which must fail
	old, new string // text in the function, where old occurs once
}

// pkg returns the directory of the package, as the go command takes it.
func (m *mutation) pkg() string {
	if dir := path.Dir(m.function); dir != "." {
		return "./" + dir
	}
	return "."
}

// name returns the function without its directory.
func (m *mutation) name() string { return path.Base(m.function) }

// errorf returns an error about m that begins with its place in the list.
func (m *mutation) errorf(format string, args ...any) error {
	return fmt.Errorf("mutations.txt:%d: "+format, append([]any{m.line}, args...)...)
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
			m.function, m.tests, _ = strings.Cut(lines[1], " ")
		}
		var before, after []string
		for _, l := range lines[min(2, len(lines)):] {
			if text, ok := strings.CutPrefix(l, "-"); ok && after == nil {
				before = append(before, text)
			} else if text, ok := strings.CutPrefix(l, "+"); ok {
				after = append(after, text)
			} else {
				return nil, fmt.Errorf("mutations.txt:%d: %q is out of place", at, l)
			}
		}
		m.old, m.new = strings.Join(before, "\n"), strings.Join(after, "\n")
		if m.area == "" || m.tests == "" || m.old == "" || m.old == m.new {
			return nil, m.errorf("incomplete")
		}
		mutations = append(mutations, m)
	}
	return mutations, nil
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
