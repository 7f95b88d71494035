//go:build race

package bench

// raceShift is the number of bits by which loads are reduced under the race
// detector.
const raceShift = 2
