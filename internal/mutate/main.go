// Command mutate runs mutation tests. It prints every numbered statement about the
// protocol with its tests. Then it makes each mistake of a list in the code, and
// checks that a test fails. It exits with an error if a statement has no test or
// no test notices a mistake.
//
//	go run ./internal/mutate
package main

import (
	"fmt"
	"os"
)

func main() {
	if err := run("."); err != nil {
		fmt.Fprintln(os.Stderr, "mutate:", err)
		os.Exit(1)
	}
}

// run checks the repository at root.
func run(root string) error {
	statements, err := readStatements(root)
	if err != nil {
		return err
	}
	mutations, err := readMutations(root)
	if err != nil {
		return err
	}
	gaps := printStatements(os.Stdout, statements)
	survivors, err := runMutations(os.Stdout, root, mutations)
	if err != nil {
		return err
	}
	if gaps > 0 || survivors > 0 {
		return fmt.Errorf("%d statements have no test, %d mistakes were not noticed", gaps, survivors)
	}
	return nil
}
