package gatewayconf

import (
	"errors"
	"fmt"
	"os"
	"strings"
)

// The grammar of wireproxy's files, which is that of an INI library:
//
//   - Names of sections and keys may be in any case. A value follows '=' or ':'.
//   - Lines that begin with '#' or ';' are comments, and so is what follows
//     either in a value, unless that is in `…` or """…""".
//   - "…" and '…' around a value are removed.
//   - A backslash at the end of a line joins the next line.
//   - %(name)s stands for the value of the key of that name in the section.

// An entry is a key with its value.
type entry struct {
	line  int
	key   string // as written
	value string
}

// A section is a part of a file. The first has no name, and is what comes before
// all others.
type section struct {
	line    int
	name    string // as written
	entries []entry
}

// first returns the value of a key. The key must be in lower case.
func (s *section) first(key string) (e entry, ok bool) {
	for _, e := range s.entries {
		if strings.ToLower(e.key) == key {
			return e, true
		}
	}
	return entry{}, false
}

var (
	errNoDelimiter = errors.New(`want "key = value"`)
	errUnclosed    = errors.New("a quotation without an end")
)

// parseINI splits a file into sections.
func parseINI(path, text string) ([]section, error) {
	text = strings.TrimPrefix(text, "\ufeff")
	lines := strings.Split(strings.ReplaceAll(text, "\r\n", "\n"), "\n")
	sections := []section{{line: 1}}
	for i := 0; i < len(lines); i++ {
		at := i + 1
		line := strings.TrimSpace(lines[i])
		for strings.HasSuffix(line, `\`) && i+1 < len(lines) {
			i++
			line = strings.TrimSuffix(line, `\`) + strings.TrimSpace(lines[i])
		}
		last := &sections[len(sections)-1]
		switch {
		case line == "", line[0] == '#', line[0] == ';':
			continue
		case line[0] == '[':
			name, _, ok := strings.Cut(line[1:], "]")
			if !ok {
				return nil, &Error{Path: path, Line: at, Err: errors.New(`want "[Section]"`)}
			}
			sections = append(sections, section{line: at, name: name})
			continue
		}
		end := strings.IndexAny(line, "=:")
		if end < 0 {
			return nil, &Error{Path: path, Line: at, Section: last.name, Err: errNoDelimiter}
		}
		e := entry{line: at, key: strings.TrimSpace(line[:end])}
		raw := strings.TrimSpace(line[end+1:])
		for strings.HasPrefix(raw, `"""`) && !strings.Contains(raw[3:], `"""`) && i+1 < len(lines) {
			i++
			raw += "\n" + lines[i]
		}
		var err error
		if e.value, err = parseValue(raw); err != nil {
			return nil, &Error{Path: path, Line: at, Section: last.name, Key: e.key, Err: err}
		}
		last.entries = append(last.entries, e)
	}
	for i := range sections {
		sections[i].interpolate()
	}
	return sections, nil
}

// parseValue removes quotes and comments.
func parseValue(raw string) (string, error) {
	for _, quote := range []string{`"""`, "`"} {
		if quoted, ok := strings.CutPrefix(raw, quote); ok {
			value, _, ok := strings.Cut(quoted, quote)
			if !ok {
				return "", errUnclosed
			}
			return value, nil
		}
	}
	if i := strings.IndexAny(raw, "#;"); i >= 0 {
		raw = strings.TrimSpace(raw[:i])
	}
	if n := len(raw); n >= 2 && (raw[0] == '"' || raw[0] == '\'') && raw[n-1] == raw[0] {
		raw = raw[1 : n-1]
	}
	return raw, nil
}

// interpolate replaces %(name)s, once, where the section has the key.
func (s *section) interpolate() {
	for i := range s.entries {
		e := &s.entries[i]
		start := strings.Index(e.value, "%(")
		if start < 0 {
			continue
		}
		name, rest, ok := strings.Cut(e.value[start+2:], ")s")
		if other, found := s.first(strings.ToLower(name)); ok && found {
			e.value = e.value[:start] + other.value + rest
		}
	}
}

// expand returns the value of a key whose whole value may be $NAME, a variable
// of the environment; $$ stands for $. A variable that is not set is an error:
// it must not turn into an empty password.
func expand(value string) (string, error) {
	name, ok := strings.CutPrefix(value, "$")
	switch {
	case !ok:
		return value, nil
	case strings.HasPrefix(name, "$"):
		return name, nil
	}
	expanded, ok := os.LookupEnv(name)
	if !ok {
		return "", fmt.Errorf("the environment variable %s is not set", name)
	}
	return expanded, nil
}
