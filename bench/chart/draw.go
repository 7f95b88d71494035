package main

import (
	"bytes"
	"fmt"
	"html"
	"math"
)

// Dimensions of the drawing, in pixels.
const (
	chartWidth  = 960
	margin      = 24
	labelWidth  = 300 // of the scenarios
	plotLeft    = margin + labelWidth + 12
	plotRight   = chartWidth - margin - 250 // the rest is for the label of the longest bar
	barHeight   = 14
	rowGap      = 9
	groupHeight = 30
)

// Colors on a white background.
const (
	ownColor   = "#1f6feb"
	otherColor = "#b8bec6"
	gridColor  = "#e6e8eb"
	textColor  = "#1f2328"
	mutedColor = "#59636e"
)

const title = "Times better than wireguard-go"

// ticks are the ratios that the axis may show.
var ticks = []float64{0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000}

// draw returns an SVG that shows how many times better than the rival this
// library and the others are: bars on a logarithmic scale that begin at 1 and
// extend to the right for better, to the left for worse.
func draw(rows []row, cpu string) []byte {
	low, high := 1.0, 2.0
	for _, r := range rows {
		low, high = min(low, r.ratio), max(high, r.ratio)
		for _, o := range r.others {
			low, high = min(low, o.ratio), max(high, o.ratio)
		}
	}
	c := &canvas{
		low:   math.Log(low),
		scale: (plotRight - plotLeft) / (math.Log(high) - math.Log(low)),
	}

	c.text(margin, 38, textColor, `font-size="17" font-weight="bold"`, title)
	subtitle := "Blue is this library: the ratio, its figure vs wireguard-go's. Both ends on one machine"
	if cpu != "" {
		subtitle += ": " + cpu
	}
	c.text(margin, 60, mutedColor, "", subtitle)
	y := 92
	c.description = title + "."
	group := ""
	for _, r := range rows {
		if r.group != group {
			group = r.group
			y += groupHeight
			c.text(margin, y-10, textColor, `font-weight="bold"`, group)
		}
		c.text(margin+labelWidth, y+barHeight-3, textColor, `text-anchor="end"`, r.label)
		c.bar(y, r.ratio, ownColor, textColor, fmt.Sprintf("%s   %s vs %s", formatRatio(r.ratio), r.format(r.own), r.format(r.rival)))
		c.description += fmt.Sprintf(" %s: %s (%s vs %s).", r.label, formatRatio(r.ratio), r.format(r.own), r.format(r.rival))
		y += barHeight
		for _, o := range r.others {
			c.bar(y+2, o.ratio, otherColor, mutedColor, fmt.Sprintf("%s   %s, %s", formatRatio(o.ratio), o.impl, r.format(o.value)))
			y += barHeight + 2
		}
		y += rowGap
	}
	height := y + margin

	var out bytes.Buffer
	fmt.Fprintf(&out, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" role="img" aria-labelledby="title desc" font-family="Helvetica, Arial, sans-serif" font-size="12.5">
<title id="title">%s</title>
<desc id="desc">%s</desc>
<rect width="%[1]d" height="%[2]d" rx="8" fill="#fff"/>
`, chartWidth, height, title, html.EscapeString(c.description))
	for _, ratio := range ticks {
		if ratio < low || ratio > high {
			continue
		}
		x, color := c.x(ratio), gridColor
		if ratio == 1 {
			color = mutedColor
		}
		fmt.Fprintf(&out, `<text x="%.1f" y="86" text-anchor="middle" font-size="11" fill="%s">%v×</text>`+"\n", x, mutedColor, ratio)
		fmt.Fprintf(&out, `<path d="M%.1f 92V%d" stroke="%s"/>`+"\n", x, height-margin, color)
	}
	out.Write(c.body.Bytes())
	out.WriteString("</svg>\n")
	return out.Bytes()
}

// A canvas is a drawing in progress.
type canvas struct {
	body        bytes.Buffer
	description string
	low, scale  float64 // on the logarithmic scale
}

// x returns the horizontal position of a ratio.
func (c *canvas) x(ratio float64) float64 { return plotLeft + (math.Log(ratio)-c.low)*c.scale }

func (c *canvas) text(x float64, y int, color, attributes, s string) {
	if attributes != "" {
		attributes = " " + attributes
	}
	fmt.Fprintf(&c.body, `<text x="%.1f" y="%d" fill="%s"%s xml:space="preserve">%s</text>`+"\n", x, y, color, attributes, html.EscapeString(s))
}

// bar draws a bar from 1 to a ratio, and a label after it.
func (c *canvas) bar(y int, ratio float64, color, label, s string) {
	from, to := c.x(min(1, ratio)), c.x(max(1, ratio))
	fmt.Fprintf(&c.body, `<rect x="%.1f" y="%d" width="%.1f" height="%d" rx="2" fill="%s"/>`+"\n", from, y, max(1, to-from), barHeight, color)
	c.text(to+6, y+barHeight-3, label, "", s)
}
