package gatewayconf

import (
	"fmt"
	"strings"
)

// suggest returns the end of a sentence that names what was probably meant by a
// word, or nothing.
func suggest(word string, known []string) string {
	word = strings.ToLower(word)
	for _, k := range known {
		if k != "" && (strings.HasPrefix(word, k) || distance(word, k) <= 2) {
			return fmt.Sprintf("; did you mean %s?", k)
		}
	}
	return ""
}

// distance returns how many letters must be added, removed or replaced to make b
// of a (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replaced := diagonal
			if a[i] != b[j] {
				replaced++
			}
			diagonal = row[j+1]
			row[j+1] = min(replaced, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
