// Command mutate prints what the tests of this project cover: every statement
// about the protocol with its tests, and a list of mistakes, each of which it
// makes to see whether the tests notice. It fails if a statement has no test or
// a mistake goes unnoticed.
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

// run prints the coverage of the repository at root.
func run(root string) error {
	statements, err := readStatements(root)
	if err != nil {
		return err
	}
	mutations, err := readMutations(root)
	if err != nil {
		return err
	}
	gaps := printStatements(statements)
	survivors, err := mutate(root, mutations)
	if err != nil {
		return err
	}
	if gaps > 0 || survivors > 0 {
		return fmt.Errorf("%d statements without test, %d mistakes unnoticed", gaps, survivors)
	}
	return nil
}
