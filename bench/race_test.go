//go:build race

package bench

// raceShift is by how many bits to do less where the race detector makes it
// slow.
const raceShift = 2
