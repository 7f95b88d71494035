package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// writeMarkdown writes the table of the rows.
func writeMarkdown(w io.Writer, rows []row) error {
	var columns []string // of others
	for _, impl := range otherImpls {
		if slices.ContainsFunc(rows, func(r row) bool {
			return slices.ContainsFunc(r.others, func(o other) bool { return o.impl == impl })
		}) {
			columns = append(columns, impl)
		}
	}
	table := [][]string{slices.Concat([]string{"", "this library", "wireguard-go"}, columns, []string{"ratio"})}
	for _, r := range rows {
		cells := []string{r.label, r.format(r.own), r.format(r.rival)}
		for _, impl := range columns {
			cell := ""
			if i := slices.IndexFunc(r.others, func(o other) bool { return o.impl == impl }); i >= 0 {
				cell = r.format(r.others[i].value)
			}
			cells = append(cells, cell)
		}
		table = append(table, append(cells, formatRatio(r.ratio)))
	}
	return writeTable(w, table)
}

// writeTable writes a table, the first row of which is the head.
func writeTable(w io.Writer, table [][]string) error {
	table = slices.Insert(table, 1, slices.Repeat([]string{"---"}, len(table[0])))
	for _, cells := range table {
		if _, err := fmt.Fprintf(w, "| %s |\n", strings.Join(cells, " | ")); err != nil {
			return err
		}
	}
	return nil
}
