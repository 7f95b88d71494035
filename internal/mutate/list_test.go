package main

import (
	"slices"
	"strings"
	"testing"
)

const exampleList = `# first area

one line
peer.f TestA
-old
+new

# second area

two lines, and a function of another package
internal/x/T.f TestB|TestC
-	if old {
-
+	if new {
+		return

text is removed
f .
-old
`

func TestParseMutations(t *testing.T) {
	got, err := parseMutations(exampleList)
	want := []mutation{
		{3, "first area", "one line", "peer.f", "TestA", "old", "new"},
		{10, "second area", "two lines, and a function of another package", "internal/x/T.f", "TestB|TestC", "\tif old {\n", "\tif new {\n\t\treturn"},
		{17, "second area", "text is removed", "f", ".", "old", ""},
	}
	if err != nil || !slices.Equal(got, want) {
		t.Fatalf("%v\n%+v\nwant\n%+v", err, got, want)
	}
	if got[0].pkg() != "." || got[0].name() != "peer.f" || got[1].pkg() != "./internal/x" || got[1].name() != "T.f" {
		t.Errorf("packages %s and %s, functions %s and %s", got[0].pkg(), got[1].pkg(), got[0].name(), got[1].name())
	}
	areas, total := areasOf(got)
	if !slices.Equal(areas, []string{"first area", "second area"}) || total["first area"] != 1 || total["second area"] != 2 {
		t.Errorf("areas %q with %v mutations", areas, total)
	}
}

// TestParseMutationsErrors checks that each error names the line of the mutation.
func TestParseMutationsErrors(t *testing.T) {
	const incomplete = "the mutation has no area, no tests, or no change"
	for _, test := range []struct{ name, paragraph, want string }{
		{"description only", "description", incomplete},
		{"no tests", "description\nf\n-old\n+new", incomplete},
		{"no text", "description\nf TestA", incomplete},
		{"nothing to replace", "description\nf TestA\n+new", incomplete},
		{"no change", "description\nf TestA\n-old\n+old", incomplete},
		{"text without sign", "description\nf TestA\n-old\nnew", `unexpected line "new"`},
		{"new before old", "description\nf TestA\n-old\n+new\n-old", `unexpected line "-old"`},
	} {
		_, err := parseMutations("# area\n\nfirst\nf TestA\n-old\n+new\n\n" + test.paragraph + "\n\nlast\nf TestA\n-old\n+new\n")
		if want := "mutations.txt:8: " + test.want; err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", test.name, err, want)
		}
	}
	_, after, _ := strings.Cut(exampleList, "\n\n")
	if _, err := parseMutations(after); err == nil || err.Error() != "mutations.txt:1: "+incomplete {
		t.Errorf("no headline: %v", err)
	}
	if _, err := readMutations(t.TempDir()); err == nil {
		t.Error("a missing list has no error")
	}
}
