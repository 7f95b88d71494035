// Command chart makes a chart and tables from the output of the benchmarks.
//
//	go test -run '^$' -bench . -count 5 -timeout 0 . | go run ./chart -svg figures.svg
//
// It reads the named files, or standard input, and takes the medians of
// repeated results. The tables, in Markdown, go to standard output. The chart and
// the first table show only the scenarios in scenarios.go, and of these only
// those with results for this library and for the implementation that it is
// compared with. The other tables are the matrix of BenchmarkPath, if it ran.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

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
	if len(rows) == 0 && len(r.cells()) == 0 {
		return errors.New("no results to compare in the input")
	}
	if len(rows) == 0 {
		return r.writeMatrix(table)
	}
	if svg != "" {
		if err := os.WriteFile(svg, draw(rows, r.cpu), 0o644); err != nil {
			return err
		}
	}
	if err := writeMarkdown(table, rows); err != nil {
		return err
	}
	return r.writeMatrix(table)
}
