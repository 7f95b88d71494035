package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestFailureNamesWhatNoticed(t *testing.T) {
	for _, c := range []struct{ out, want string }{
		{"=== RUN TestX\n--- FAIL: TestX (0.00s)\n", "TestX"},
		{"    --- FAIL: TestX/part (0.00s)\n--- FAIL: TestX (0.00s)\n", "TestX/part"},
		{"panic: test timed out after 20s\n", "test timed out after 20s"},
		{"fatal error: all goroutines are asleep\n", "all goroutines are asleep"},
		{"ok\nPASS\n", ""},
	} {
		got := ""
		if m := testOutput.FindSubmatch([]byte(c.out)); m != nil {
			got = string(bytes.Join(m[1:], nil))
		}
		if got != c.want {
			t.Errorf("%q: %q noticed, want %q", c.out, got, c.want)
		}
	}
}

func TestPrintMutations(t *testing.T) {
	var b bytes.Buffer
	survivors := printMutations(&b, []mutation{
		{1, "first", "is detected", parseFunction("f"), "TestA", "old", "new"},
		{6, "first", "is not detected", parseFunction("x/T.f"), "TestB|TestC", "a\nb", "c\nd"},
		{13, "second", "is detected too", parseFunction("f"), "TestA", "old", "new"},
	}, []string{"TestA", "", "deadlock"})
	const want = `
first
  is detected: TestA
  is not detected: SURVIVES

second
  is detected too: deadlock

first: 1 of 2 mutations killed
second: 1 of 1 mutations killed
all: 2 of 3 mutations killed

SURVIVES: is not detected (mutations.txt:6). TestB|TestC should fail with this change of x/T.f:
-a
-b
+c
+d
`
	if b.String() != want || survivors != 1 {
		t.Errorf("%d survivors:\n%s\nwant 1:\n%s", survivors, &b, want)
	}
}

// TestRunMutations mutates a module of one function. Its test detects one of two
// mutations.
func TestRunMutations(t *testing.T) {
	if testing.Short() {
		t.Skip("builds a test binary")
	}
	if _, err := exec.LookPath("go"); err != nil {
		t.Skipf("no go command to compile with: %v", err)
	}
	t.Setenv("GOWORK", "off")
	dir := writePackage(t, map[string]string{
		"p.go": "func double(n int) int { return n + n }\n",
		"p_test.go": `import "testing"

func TestDouble(t *testing.T) {
	if double(2) != 4 {
		t.Error("wrong")
	}
}

func TestWrong(t *testing.T) { t.Error("always") }
`,
	})
	if err := os.WriteFile(filepath.Join(dir, "go.mod"), []byte("module p\n\ngo 1.26\n"), 0o666); err != nil {
		t.Fatal(err)
	}
	detected := mutation{1, "area", "detected", parseFunction("double"), "TestDouble", "n + n", "n"}
	survives := mutation{6, "area", "survives", parseFunction("double"), "TestDouble", "n + n", "n * n"}
	var b bytes.Buffer
	survivors, err := runMutations(&b, dir, []mutation{detected, survives})
	if err != nil || survivors != 1 || !strings.Contains(b.String(), "detected: TestDouble\n  survives: SURVIVES\n") {
		t.Errorf("%d survivors, %v\n%s", survivors, err, &b)
	}

	doesNotCompile := detected
	doesNotCompile.new = "m"
	file := filepath.Join(dir, "p.test")
	if _, err := buildTests(dir, file, []mutation{doesNotCompile}); err == nil || !strings.Contains(err.Error(), "mutations.txt:1") {
		t.Errorf("%v, want the line of a mutation that does not compile", err)
	}
	binary, err := buildTests(dir, file, []mutation{detected, survives})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := binary.run(t.Context(), "TestMissing", 1); err == nil || err.Error() != "no test matches TestMissing" {
		t.Errorf("%v, want that no test matches", err)
	}
	if err := binary.runUnmutated([]mutation{{tests: "TestDouble"}, {tests: "TestWrong"}}); err == nil || !strings.Contains(err.Error(), "TestWrong") {
		t.Errorf("%v, want that TestWrong fails without a mutation", err)
	}
}
