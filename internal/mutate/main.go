// Command mutate checks the tests of this repository in two ways. It prints
// the numbered statements about the protocol with their tests, and it runs the
// tests on mutated code: testdata/mutations.txt lists faults, each with the
// tests that must fail when it is made. The command fails if a statement has no
// test, or if no test detects a mutation.
//
// Run it at the root of the repository:
//
//	go run ./internal/mutate
package main

import (
	"fmt"
	"os"
	"slices"
)

func main() {
	if len(os.Args) > 1 {
		fmt.Fprintln(os.Stderr, "usage: go run ./internal/mutate (at the root of the repository)")
		os.Exit(2)
	}
	if err := run("."); err != nil {
		fmt.Fprintln(os.Stderr, "mutate:", err)
		os.Exit(1)
	}
}

// run checks the tests of the repository at root.
func run(root string) error {
	statements, err := readStatements(root)
	if err != nil {
		return err
	}
	mutations, err := readMutations(root)
	if err != nil {
		return err
	}
	untested := printStatements(os.Stdout, statements)
	// The tests of another system's functions do not run on this one.
	mutations = slices.DeleteFunc(mutations, func(m mutation) bool { return !m.function.runsHere() })
	survivors, err := runMutations(os.Stdout, root, mutations)
	if err != nil {
		return err
	}
	if untested > 0 || survivors > 0 {
		return fmt.Errorf("%d statements have no test, %d mutations survive", untested, survivors)
	}
	return nil
}
