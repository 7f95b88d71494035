package netstack

import (
	"io"
	"testing"
)

// BenchmarkTCP sends over TCP between two stacks joined in memory.
func BenchmarkTCP(b *testing.B) {
	p := join(b, nil)
	from, to := p.connect(b, b4)
	const chunk = 1 << 20
	b.SetBytes(chunk)
	go func() {
		data := make([]byte, chunk)
		for {
			if _, err := from.Write(data); err != nil {
				return
			}
		}
	}()
	data := make([]byte, chunk)
	for b.Loop() {
		if _, err := io.ReadFull(to, data); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkRoundTrip sends one byte there and back.
func BenchmarkRoundTrip(b *testing.B) {
	p := join(b, nil)
	from, to := p.connect(b, b4)
	go io.Copy(to, to)
	data := []byte{1}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := from.Write(data); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(from, data); err != nil {
			b.Fatal(err)
		}
	}
}
