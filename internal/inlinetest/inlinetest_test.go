package inlinetest

import (
	"maps"
	"os/exec"
	"slices"
	"testing"
)

func TestCheck(t *testing.T) { Check(t, "isShape") }

// TestReadInlinable needs one function that is small enough and one that is not.
func TestReadInlinable(t *testing.T) {
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("no go command: ", err)
	}
	inlinable, err := readInlinable()
	if err != nil {
		t.Fatal(err)
	}
	if !inlinable["isShape"] || inlinable["Check"] {
		t.Errorf("isShape %t, Check %t; want true, false", inlinable["isShape"], inlinable["Check"])
	}
}

func TestParseInlinable(t *testing.T) {
	output := `# example.org/pkg
./a.go:1:6: can inline plain
./a.go:2:6: can inline (*T).method
./a.go:3:6: can inline (*table[go.shape.*example.org/pkg.peer]).shaped
./a.go:4:6: can inline (*table[*example.org/pkg.peer]).wrapper
./a.go:5:6: can inline (*table[go.shape.struct { a [2]int }]).nested
./a.go:6:6: can inline generic[go.shape.[]uint8]
./a.go:7:6: inlining call to called
./a.go:8:6: b does not escape
`
	want := []string{"(*T).method", "(*table).nested", "(*table).shaped", "generic", "plain"}
	if got := slices.Sorted(maps.Keys(parseInlinable(output))); !slices.Equal(got, want) {
		t.Errorf("%q\nwant %q", got, want)
	}
}
