package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// The matrix is the results of BenchmarkPath: cells named
// Path/rtt=5ms/loss=1%, whose implementations are this library, its rivals, and
// combinations with the kernel's TCP/IP.

// A cell is one path.
type cell struct {
	name string // of the benchmark
	rtt  time.Duration
	path string // what it does to packets
}

// pathNames are the paths as the table names them, in its order.
var pathNames = []struct{ name, label string }{
	{"loss=0%", "no loss"},
	{"loss=0.1%", "0.1 % lost"},
	{"loss=1%", "1 % lost"},
	{"loss=3%", "3 % lost"},
	{"bursts=1%", "1 % lost in bursts"},
	{"late=0.1%", "0.1 % late by 2 ms"},
	{"late=1%", "1 % late by 2 ms"},
}

// cells returns the cells that have results of this library.
func (r *results) cells() (cells []cell) {
	for k := range r.values {
		parts := strings.Split(k.name, "/")
		if k.impl != "own" || k.unit != "B/s" || len(parts) != 3 || parts[0] != "Path" {
			continue
		}
		rtt, err := time.ParseDuration(strings.TrimPrefix(parts[1], "rtt="))
		if err == nil {
			cells = append(cells, cell{k.name, rtt, parts[2]})
		}
	}
	order := func(c cell) int {
		return slices.IndexFunc(pathNames, func(p struct{ name, label string }) bool { return p.name == c.path })
	}
	slices.SortFunc(cells, func(a, b cell) int {
		return cmp.Or(cmp.Compare(a.rtt, b.rtt), cmp.Compare(order(a), order(b)), cmp.Compare(a.path, b.path))
	})
	return cells
}

func (c cell) label() string {
	label := c.path
	for _, p := range pathNames {
		if p.name == c.path {
			label = p.label
		}
	}
	return fmt.Sprintf("%v ms, %s", float64(c.rtt)/1e6, label)
}

// rivalImpls are the implementations of which a ratio takes the better one.
var rivalImpls = []string{"wireguard-go", "tailscale"}

// ratio returns the median, over the rounds, of the value of an implementation
// divided by the best of others in the same round.
func (r *results) ratio(name, unit, impl string, others []string, less bool) (_ float64, ok bool) {
	own := r.values[key{name, impl, unit}]
	var ratios []float64
	for i, v := range own {
		best, found := 0.0, false
		for _, o := range others {
			values := r.values[key{name, o, unit}]
			if len(values) != len(own) {
				continue
			}
			if x := values[i]; !found || less && x < best || !less && x > best {
				best, found = x, true
			}
		}
		if found && best > 0 {
			ratios = append(ratios, v/best)
		}
	}
	return median(ratios)
}

// writeMatrix writes two tables, each after an empty line: the rates of
// streams, and the durations of answers. It writes nothing if there are no
// cells.
func (r *results) writeMatrix(w io.Writer) error {
	cells := r.cells()
	if len(cells) == 0 {
		return nil
	}
	bulk := [][]string{{"one stream, MB/s", "this library", "wireguard-go", "tailscale", "ratio",
		"to a kernel", "from a kernel", "kernel to kernel", "ratios"}}
	answers := [][]string{{"20 KB answer, ms: median / 90 % / 99 %", "this library", "wireguard-go", "tailscale",
		"ratio of 99 %", "to a kernel", "from a kernel", "kernel to kernel"}}
	for _, c := range cells {
		row, times := []string{c.label()}, []string{c.label()}
		for _, impl := range slices.Concat([]string{"own"}, rivalImpls) {
			row, times = append(row, r.rate(c, impl)), append(times, r.durations(c, impl))
		}
		row = append(row, r.formatRatio(c, "B/s", "own", rivalImpls, false))
		times = append(times, r.formatRatio(c, "p99-us", "own", rivalImpls, true))
		for _, impl := range []string{"own-to-kernel", "kernel-to-own", "kernel"} {
			row, times = append(row, r.rate(c, impl)), append(times, r.durations(c, impl))
		}
		row = append(row, strings.Trim(r.formatRatio(c, "B/s", "own-to-kernel", []string{"kernel"}, false)+" / "+
			r.formatRatio(c, "B/s", "kernel-to-own", []string{"kernel"}, false), " /"))
		bulk, answers = append(bulk, row), append(answers, times)
	}
	for _, table := range [][][]string{bulk, answers} {
		if _, err := fmt.Fprintln(w); err != nil {
			return err
		}
		if err := writeTable(w, table); err != nil {
			return err
		}
	}
	if r.stalled(cells) {
		_, err := fmt.Fprint(w, "\n† a stream or an answer stood still for 2 s in at least one round\n")
		return err
	}
	return nil
}

// rate formats the rate of an implementation, with a mark if it stalled.
func (r *results) rate(c cell, impl string) string {
	v, ok := r.median(key{c.name, impl, "B/s"})
	if !ok {
		return ""
	}
	mark := ""
	if slices.ContainsFunc(r.values[key{c.name, impl, "stalls"}], func(n float64) bool { return n > 0 }) {
		mark = " †"
	}
	return formatDigits(v/1e6) + mark
}

// stalled reports whether there is a mark in the table.
func (r *results) stalled(cells []cell) bool {
	for k, values := range r.values {
		if k.unit == "stalls" && slices.Max(values) > 0 &&
			slices.ContainsFunc(cells, func(c cell) bool { return c.name == k.name }) {
			return true
		}
	}
	return false
}

func (r *results) durations(c cell, impl string) string {
	var parts []string
	for _, unit := range []string{"p50-us", "p90-us", "p99-us"} {
		v, ok := r.median(key{c.name, impl, unit})
		if !ok {
			return ""
		}
		parts = append(parts, formatDigits(v/1e3))
	}
	return strings.Join(parts, " / ")
}

// formatRatio formats the ratio of values, which is better above 1, or below 1
// if less.
func (r *results) formatRatio(c cell, unit, impl string, others []string, less bool) string {
	x, ok := r.ratio(c.name, unit, impl, others, less)
	if !ok {
		return ""
	}
	return formatDigits(x)
}
