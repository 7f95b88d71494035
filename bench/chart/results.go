package main

import (
	"bytes"
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"

	"golang.org/x/perf/benchfmt"
)

// results are the values of one machine.
type results struct {
	values map[key][]float64
	cpu    string
}

type key struct{ name, impl, unit string }

// A scanner reads the benchmark format: benchfmt.Files or benchfmt.Reader.
type scanner interface {
	Scan() bool
	Result() benchfmt.Record
	Err() error
}

// read reads all results that name an implementation. Errors begin with file
// and line.
func read(s scanner) (*results, error) {
	r := &results{values: make(map[key][]float64)}
	for s.Scan() {
		switch rec := s.Result().(type) {
		case *benchfmt.SyntaxError:
			return nil, rec
		case *benchfmt.Result:
			if err := r.add(rec); err != nil {
				file, line := rec.Pos()
				return nil, fmt.Errorf("%s:%d: %w", file, line, err)
			}
		}
	}
	return r, s.Err()
}

func (r *results) add(rec *benchfmt.Result) error {
	name, impl := splitName(rec.Name)
	if impl == "" {
		return nil
	}
	cpu := rec.GetConfig("cpu")
	if r.cpu = cmp.Or(r.cpu, cpu); cpu != r.cpu {
		return fmt.Errorf("results of %q among those of %q", cpu, r.cpu)
	}
	for _, v := range rec.Values {
		value, unit := v.Value, v.Unit
		if v.OrigUnit != "" {
			value, unit = v.OrigValue, v.OrigUnit
		}
		stalled := value == 0 && strings.HasPrefix(name, "Path/") // its stream stood still
		if charted(name, unit) && !(value > 0 && value < math.Inf(1)) && !stalled {
			return fmt.Errorf("%s of %s is %v", unit, name, value)
		}
		k := key{name, impl, unit}
		r.values[k] = append(r.values[k], value)
	}
	return nil
}

// splitName separates the implementation from a benchmark's name, and removes
// the number of processors.
func splitName(full benchfmt.Name) (name, impl string) {
	base, parts := full.Parts()
	name = string(base)
	for _, part := range parts {
		if i, ok := bytes.CutPrefix(part, []byte("/impl=")); ok {
			impl = string(i)
		} else if part[0] == '/' {
			name += string(part)
		}
	}
	return name, impl
}

// median returns the median of a key's values; there may be none.
func (r *results) median(k key) (_ float64, ok bool) {
	return median(r.values[k])
}

func median(values []float64) (_ float64, ok bool) {
	n := len(values)
	if n == 0 {
		return 0, false
	}
	values = slices.Sorted(slices.Values(values))
	return (values[(n-1)/2] + values[n/2]) / 2, true
}

// A row is a scenario with results of this library and its rival.
type row struct {
	scenario
	own, rival float64
	ratio      float64 // how many times better this library is than the rival
	others     []other
}

// An other is the result of one more implementation.
type other struct {
	impl         string
	value, ratio float64 // ratio: how many times better than the rival
}

// rows returns the scenarios that have results, in their order.
func (r *results) rows() (rows []row) {
	for _, s := range scenarios {
		own, ownOK := r.median(key{s.name, "own", s.unit})
		rival, rivalOK := r.median(key{s.name, s.rival(), s.unit})
		if !ownOK || !rivalOK || own == 0 || rival == 0 {
			continue
		}
		row := row{scenario: s, own: own, rival: rival, ratio: s.better(own / rival)}
		// The benchmark's own ratio is preferred: it is that of single rounds.
		if x, ok := r.median(key{s.name, "own", s.ratioUnit()}); ok && x > 0 {
			row.ratio = s.better(x)
		}
		for _, impl := range otherImpls {
			if v, ok := r.median(key{s.name, impl, s.unit}); ok && v > 0 {
				row.others = append(row.others, other{impl, v, s.better(v / rival)})
			}
		}
		rows = append(rows, row)
	}
	return rows
}
