// Command chart makes a chart and a table of what the benchmarks print.
//
//	go test -run '^$' -bench . -count 5 -timeout 0 . | go run ./chart -svg figures.svg
//
// It reads the files named, or standard input, and takes the medians of
// repeated results. The table, for Markdown, goes to standard output. It knows
// the scenarios in scenarios.go; others are left out, and so is what was not
// measured for this library and for the one it is compared with.
package main

import (
	"bytes"
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strings"

	"golang.org/x/perf/benchfmt"
)

func main() {
	svg := flag.String("svg", "", "`file` to write the chart to")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: chart [-svg file] [results ...]")
		flag.PrintDefaults()
	}
	flag.Parse()
	if err := run(os.Stdout, *svg, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "chart:", err)
		os.Exit(1)
	}
}

func run(table io.Writer, svg string, paths []string) error {
	files := &benchfmt.Files{Paths: paths, AllowStdin: true}
	r, err := read(files)
	if err != nil {
		return err
	}
	rows := r.rows()
	if len(rows) == 0 {
		return errors.New("no results to compare in the input")
	}
	if svg != "" {
		if err := os.WriteFile(svg, draw(rows, r.cpu), 0o644); err != nil {
			return err
		}
	}
	return markdown(table, rows)
}

// results are the values of one machine.
type results struct {
	values map[key][]float64
	cpu    string
}

type key struct{ name, impl, unit string }

// scanner is what reads the benchmark format: benchfmt.Files, or a Reader.
type scanner interface {
	Scan() bool
	Result() benchfmt.Record
	Err() error
}

// read takes in all results that name an implementation. Errors begin with
// file and line.
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
	name, impl := split(rec.Name)
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
		if charted(name, unit) && !(value > 0 && value < math.Inf(1)) {
			return fmt.Errorf("%s of %s is %v", unit, name, value)
		}
		k := key{name, impl, unit}
		r.values[k] = append(r.values[k], value)
	}
	return nil
}

// split takes the implementation out of a benchmark's name, and the number of
// processors away.
func split(full benchfmt.Name) (name, impl string) {
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
	values := slices.Sorted(slices.Values(r.values[k]))
	n := len(values)
	if n == 0 {
		return 0, false
	}
	return (values[(n-1)/2] + values[n/2]) / 2, true
}

// A row is a scenario that was measured for this library and its rival.
type row struct {
	scenario
	own, rival float64
	ratio      float64 // how many times better this library is
	others     []other
}

// other is one more implementation.
type other struct {
	impl         string
	value, ratio float64 // how many times better than the rival it is
}

// rows are the known scenarios that can be shown, in their order.
func (r *results) rows() (rows []row) {
	for _, s := range scenarios {
		own, ok := r.median(key{s.name, "own", s.unit})
		rival, ok2 := r.median(key{s.name, s.rival(), s.unit})
		if !ok || !ok2 {
			continue
		}
		row := row{scenario: s, own: own, rival: rival, ratio: s.better(own / rival)}
		// The benchmark knows better, as it has the ratios of single rounds.
		if x, ok := r.median(key{s.name, "own", s.ratioUnit()}); ok && x > 0 {
			row.ratio = s.better(x)
		}
		for _, impl := range otherImpls {
			if v, ok := r.median(key{s.name, impl, s.unit}); ok {
				row.others = append(row.others, other{impl, v, s.better(v / rival)})
			}
		}
		rows = append(rows, row)
	}
	return rows
}

// markdown writes the table.
func markdown(w io.Writer, rows []row) error {
	var columns []string // of others
	for _, impl := range otherImpls {
		if slices.ContainsFunc(rows, func(r row) bool {
			return slices.ContainsFunc(r.others, func(o other) bool { return o.impl == impl })
		}) {
			columns = append(columns, impl)
		}
	}
	table := [][]string{slices.Concat([]string{"", "this library", "wireguard-go"}, columns, []string{"ratio"})}
	table = append(table, slices.Repeat([]string{"---"}, len(table[0])))
	for _, r := range rows {
		cells := []string{r.label, r.format(r.own), r.format(r.rival)}
		for _, impl := range columns {
			cell := ""
			if i := slices.IndexFunc(r.others, func(o other) bool { return o.impl == impl }); i >= 0 {
				cell = r.format(r.others[i].value)
			}
			cells = append(cells, cell)
		}
		table = append(table, append(cells, times(r.ratio)))
	}
	for _, cells := range table {
		if _, err := fmt.Fprintf(w, "| %s |\n", strings.Join(cells, " | ")); err != nil {
			return err
		}
	}
	return nil
}
