package main

import (
	"bytes"
	"encoding/xml"
	"io"
	"strings"
	"testing"
)

// Text from the input must be escaped in the chart.
func TestChartIsXML(t *testing.T) {
	rows := parseRows(t, "BenchmarkTCP/streams=1/impl=own-8 1 3 MB/s\nBenchmarkTCP/streams=1/impl=wireguard-go-8 1 900 MB/s\n")
	d := xml.NewDecoder(bytes.NewReader(draw(rows, `<CPU & "more">`)))
	found := false
	for {
		token, err := d.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		text, ok := token.(xml.CharData)
		found = found || ok && strings.Contains(string(text), `<CPU & "more">`)
	}
	if !found {
		t.Error("the processor's name is not in the chart")
	}
}
