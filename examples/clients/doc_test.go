package clients

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestDocumentedCode shows that the code in docs/programs.md is the code of this
// package, and that each function to copy is there.
func TestDocumentedCode(t *testing.T) {
	page, err := os.ReadFile("../../docs/programs.md")
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	var code strings.Builder
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		code.Write(text)
	}
	for _, block := range regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(string(page), -1) {
		if !strings.Contains(code.String(), block[1]) {
			t.Errorf("not the code of this package:\n%s", block[1])
		}
	}
	for _, function := range regexp.MustCompile(`(?m)^func [A-Z]\w*\(`).FindAllString(code.String(), -1) {
		if !strings.Contains(string(page), function) {
			t.Errorf("docs/programs.md lacks %s", function)
		}
	}
}
