package main

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestFailurePattern(t *testing.T) {
	for _, test := range []struct{ output, want string }{
		{"--- FAIL: TestA (0.00s)\n    a_test.go:1: wrong\nFAIL\n", "TestA"},
		{"some output\n    --- FAIL: TestA/sub (0.00s)\n", "TestA/sub"},
		{"--- FAIL: TestA (0.00s)\n--- FAIL: TestB (0.00s)\n", "TestA"},
		{"panic: test timed out after 20s\n\nrunning tests:\n", "test timed out after 20s"},
		{"log\nfatal error: all goroutines are asleep - deadlock!\n", "all goroutines are asleep - deadlock!"},
		{"ok\nPASS\n", ""},
		{"=== RUN TestA\nlog: --- FAIL: in the middle of a line\n", ""},
		{"the panic: is not at the start\n", ""},
	} {
		var got string
		if m := failurePattern.FindStringSubmatch(test.output); m != nil {
			got = strings.Join(m[1:], "")
		}
		if got != test.want {
			t.Errorf("%q: %q, want %q", test.output, got, test.want)
		}
	}
}

func TestPrintMutations(t *testing.T) {
	var b strings.Builder
	survivors := printMutations(&b, []mutation{
		{1, "first", "is noticed", "f", "TestA", "old", "new"},
		{6, "first", "is not noticed", "x/T.f", "TestB|TestC", "a\nb", "c\nd"},
		{13, "second", "is noticed too", "f", "TestA", "old", "new"},
	}, []string{"TestA", "", "deadlock"})
	const want = `
first
  is noticed: TestA
  is not noticed: SURVIVES

second
  is noticed too: deadlock

first: 1 of 2 mutations killed
second: 1 of 1 mutations killed
all: 2 of 3 mutations killed

SURVIVES: is not noticed (mutations.txt:6). TestB|TestC in ./x should notice it:
-a
-b
+c
+d
`
	if b.String() != want || survivors != 1 {
		t.Errorf("%d survivors:\n%s\nwant 1:\n%s", survivors, &b, want)
	}
}

// TestRunMutations mutates a module of one function, whose test notices one of two
// mutations.
func TestRunMutations(t *testing.T) {
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("no go command: ", err)
	}
	if testing.Short() {
		t.Skip("builds test binaries")
	}
	t.Setenv("GOWORK", "off")
	dir := writeFiles(t, map[string]string{
		"go.mod": "module p\n\ngo 1.26\n",
		"p.go":   "package p\n\nfunc double(n int) int { return n + n }\n",
		"p_test.go": `package p

import "testing"

func TestDouble(t *testing.T) {
	if double(2) != 4 {
		t.Error("wrong")
	}
}

func TestWrong(t *testing.T) { t.Error("always") }
`,
	})
	noticed := mutation{1, "area", "noticed", "double", "TestDouble", "n + n", "n"}
	survives := mutation{6, "area", "survives", "double", "TestDouble", "n + n", "n * n"}
	var b strings.Builder
	survivors, err := runMutations(&b, dir, []mutation{noticed, survives})
	if err != nil || survivors != 1 || !strings.Contains(b.String(), "noticed: TestDouble\n  survives: SURVIVES\n") {
		t.Errorf("%d survivors, %v\n%s", survivors, err, &b)
	}
	fails := noticed
	fails.tests = "TestWrong"
	if _, err := runMutations(&b, dir, []mutation{fails}); err == nil || err.Error() != ". fails without any mutation: TestWrong" {
		t.Errorf("%v, want that TestWrong fails", err)
	}

	binary := filepath.Join(dir, "p.test")
	doesNotCompile := noticed
	doesNotCompile.newText = "m"
	if err := buildTests(dir, ".", binary, []mutation{doesNotCompile}); err == nil || !strings.Contains(err.Error(), "mutations.txt:1") {
		t.Errorf("%v, want the line of a mutation that does not compile", err)
	}
	if err := buildTests(dir, ".", binary, []mutation{noticed, survives}); err != nil {
		t.Fatal(err)
	}
	if _, err := runTests(t.Context(), dir, ".", binary, "TestMissing", 1); err == nil || err.Error() != "no test of . matches TestMissing" {
		t.Errorf("%v, want that no test matches", err)
	}
}
