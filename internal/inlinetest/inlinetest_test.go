package inlinetest

import (
	"maps"
	"slices"
	"testing"
)

func TestCheck(t *testing.T) { Check(t, "isShape") }

func TestParseInlinable(t *testing.T) {
	out := `# example.org/p
./p.go:54:6: can inline (*buffer).release
./p.go:155:6: can inline putHeader
./p.go:156:9: inlining call to binary.littleEndian.PutUint32
./p.go:66:6: can inline (*lane[go.shape.*uint8]).init
./p.go:70:6: can inline (*set[go.shape.struct { p.a []p.b; p.c [148]uint8 }]).has
./p.go:75:6: can inline (*set[*example.org/p.peer]).wrapper
./p.go:80:6: leaking param: b
`
	want := []string{"(*buffer).release", "(*lane).init", "(*set).has", "putHeader"}
	if got := slices.Sorted(maps.Keys(parseInlinable(out))); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
