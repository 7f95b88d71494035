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
// All mutations of a package are compiled into one test binary. A mutation changes
// one function. That function gets a mutated copy, and calls the copy instead of
// its own code when an environment variable selects the mutation. The go command
// reads the mutated sources from an overlay, so no file of the repository changes.
type mutation struct {
	line        int    // where it begins in mutations.txt
	area        string // headline above it
	description string
	function    string // function or Type.method; in another package than the root: dir/function
	tests       string // regular expression for tests, one of which must fail
	oldText     string // occurs once in the body of the function
	newText     string // replaces oldText
}

// pkg returns the package as an argument of the go command.
func (m *mutation) pkg() string {
	if dir := path.Dir(m.function); dir != "." {
		return "./" + dir
	}
	return "."
}

// name returns the function without its directory.
func (m *mutation) name() string { return path.Base(m.function) }

// errorf returns an error about m that begins with its line in the list.
func (m *mutation) errorf(format string, args ...any) error {
	return fmt.Errorf("mutations.txt:%d: "+format, append([]any{m.line}, args...)...)
}

// readMutations reads the list of mutations.
func readMutations(root string) ([]mutation, error) {
	text, err := os.ReadFile(filepath.Join(root, testdata+"mutations.txt"))
	if err != nil {
		return nil, err
	}
	return parseMutations(string(text))
}

// parseMutations parses the list of mutations: areas with a headline, and a
// paragraph for each mutation.
//
//	# handshake
//
//	a replayed initiation is accepted
//	peer.acceptInitiation TestP06
//	-!stamp.after(p.greatestTimestamp)
//	+false
func parseMutations(text string) (mutations []mutation, err error) {
	area, line := "", 1
	for paragraph := range strings.SplitSeq(text, "\n\n") {
		lines := strings.Split(strings.Trim(paragraph, "\n"), "\n")
		at := line
		line += strings.Count(paragraph, "\n") + 2
		if headline, ok := strings.CutPrefix(paragraph, "# "); ok {
			area = headline
			continue
		}
		m := mutation{line: at, area: area, description: lines[0]}
		if len(lines) > 1 {
			m.function, m.tests, _ = strings.Cut(lines[1], " ")
		}
		var before, after []string
		for _, l := range lines[min(2, len(lines)):] {
			if old, ok := strings.CutPrefix(l, "-"); ok && after == nil {
				before = append(before, old)
			} else if replacement, ok := strings.CutPrefix(l, "+"); ok {
				after = append(after, replacement)
			} else {
				return nil, m.errorf("unexpected line %q", l)
			}
		}
		m.oldText, m.newText = strings.Join(before, "\n"), strings.Join(after, "\n")
		if m.area == "" || m.tests == "" || m.oldText == "" || m.oldText == m.newText {
			return nil, m.errorf("the mutation has no area, no tests, or no change")
		}
		mutations = append(mutations, m)
	}
	return mutations, nil
}

// areasOf returns the areas in the order of the list, and the number of mutations
// in each.
func areasOf(mutations []mutation) (areas []string, total map[string]int) {
	total = make(map[string]int)
	for _, m := range mutations {
		if total[m.area]++; total[m.area] == 1 {
			areas = append(areas, m.area)
		}
	}
	return areas, total
}
