//go:build !race

package bench

const raceShift = 0
