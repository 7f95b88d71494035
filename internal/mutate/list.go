package main

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strings"
)

// A mutation is a fault in one function, which the tests must detect.
type mutation struct {
	line     int    // in mutations.txt, which also identifies the mutation
	area     string // headline that it is listed under
	fault    string // what the mutated code does wrong
	function function
	tests    string // regular expression: at least one matching test must fail
	old, new string // old occurs once in the body of the function
}

// A function names a function or a method of this repository.
type function struct {
	dir  string // of the package, from the root of the repository
	name string // a function, or Type.method
	goos string // of the files to look in
}

// parseFunction reads a name such as
//
//	newDevice                      a function of the root package
//	peer.send                      a method of the root package
//	internal/replay/Window.Check   a method of another package
//	internal/udp/conn.write@linux  a method in a file that is built for Linux
//
// Without @ the function is looked up in the files that are built for the
// system that the command runs on.
func parseFunction(text string) function {
	text, goos, found := strings.Cut(text, "@")
	if !found {
		goos = runtime.GOOS
	}
	dir, name := path.Split(text)
	return function{path.Clean(dir), name, goos}
}

func (f function) String() string {
	text := path.Join(f.dir, f.name)
	if f.goos != runtime.GOOS {
		text += "@" + f.goos
	}
	return text
}

// packagePath returns the package of the function in the form that the go
// command takes.
func (f function) packagePath() string {
	if f.dir == "." {
		return "."
	}
	return "./" + f.dir
}

// runsHere reports whether the function is part of a program for this system.
func (f function) runsHere() bool { return f.goos == runtime.GOOS }

// errorf returns an error that begins with the line of the mutation.
func (m *mutation) errorf(format string, args ...any) error {
	return fmt.Errorf("mutations.txt:%d: %w", m.line, fmt.Errorf(format, args...))
}

// readMutations reads mutations.txt of the repository at root.
func readMutations(root string) ([]mutation, error) {
	text, err := os.ReadFile(filepath.Join(root, testdata+"mutations.txt"))
	if err != nil {
		return nil, err
	}
	return parseMutations(string(text))
}

// parseMutations parses a list of mutations. Paragraphs are separated by an
// empty line. A paragraph is the headline of an area, or a mutation: what it
// does wrong, the function with the tests that must detect it, the lines to
// replace, and the lines to replace them with.
//
//	# handshake
//
//	a replayed initiation is accepted
//	peer.acceptInitiation TestP06
//	-!stamp.after(p.greatestStamp)
//	+false
func parseMutations(text string) (mutations []mutation, err error) {
	area, nextLine := "", 1
	for paragraph := range strings.SplitSeq(text, "\n\n") {
		line := nextLine
		nextLine += strings.Count(paragraph, "\n") + 2
		if headline, ok := strings.CutPrefix(paragraph, "# "); ok {
			area = headline
			continue
		}
		m, err := parseMutation(line, strings.Split(strings.Trim(paragraph, "\n"), "\n"))
		if err != nil {
			return nil, err
		}
		m.area = area
		mutations = append(mutations, *m)
	}
	return mutations, nil
}

func parseMutation(line int, lines []string) (*mutation, error) {
	m := &mutation{line: line, fault: lines[0]}
	if len(lines) < 2 {
		return nil, m.errorf("%q has no function", m.fault)
	}
	name, tests, _ := strings.Cut(lines[1], " ")
	if tests == "" {
		return nil, m.errorf("no tests after %q", name)
	}
	m.function, m.tests = parseFunction(name), tests

	var removed, added []string
	for _, l := range lines[2:] {
		if text, ok := strings.CutPrefix(l, "-"); ok && added == nil {
			removed = append(removed, text)
		} else if text, ok := strings.CutPrefix(l, "+"); ok {
			added = append(added, text)
		} else {
			return nil, m.errorf("%q is neither removed (-) nor, after that, added (+)", l)
		}
	}
	m.old, m.new = strings.Join(removed, "\n"), strings.Join(added, "\n")
	if m.old == "" {
		return nil, m.errorf("no text to replace")
	}
	if m.old == m.new {
		return nil, m.errorf("the text is replaced by itself")
	}
	return m, nil
}

// countByArea returns the areas in the order of the list, and the number of
// mutations of each.
func countByArea(mutations []mutation) (areas []string, count map[string]int) {
	count = make(map[string]int)
	for _, m := range mutations {
		if count[m.area]++; count[m.area] == 1 {
			areas = append(areas, m.area)
		}
	}
	return areas, count
}
