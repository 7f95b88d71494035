package main

import (
	"runtime"
	"strings"
	"testing"
)

func TestParseMutations(t *testing.T) {
	mutations, err := parseMutations(`# handshake

a fault
internal/udp/conn.write TestA|TestB
-	if a {
-		b()
+	{

# sockets

another
newDevice@plan9 TestC
-x
+
`)
	if err != nil {
		t.Fatal(err)
	}
	want := []mutation{
		{3, "handshake", "a fault", function{"internal/udp", "conn.write", runtime.GOOS}, "TestA|TestB", "\tif a {\n\t\tb()", "\t{"},
		{11, "sockets", "another", function{".", "newDevice", "plan9"}, "TestC", "x", ""},
	}
	if len(mutations) != 2 || mutations[0] != want[0] || mutations[1] != want[1] {
		t.Errorf("got %+v, want %+v", mutations, want)
	}
}

func TestParseMutationsErrors(t *testing.T) {
	for text, want := range map[string]string{
		"a fault":                      "has no function",
		"a fault\npeer.send":           "no tests",
		"a fault\nf TestA":             "no text to replace",
		"a fault\nf TestA\n-x\n+x":     "by itself",
		"a fault\nf TestA\n-x\n+y\n z": `" z" is neither`,
		"a fault\nf TestA\n+y\n-x":     `"-x" is neither`,
	} {
		_, err := parseMutations("# area\n\n" + text)
		if err == nil || !strings.HasPrefix(err.Error(), "mutations.txt:3: ") || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want mutations.txt:3: … %s", text, err, want)
		}
	}
}
