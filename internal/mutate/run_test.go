package main

import (
	"bytes"
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
