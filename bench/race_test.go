//go:build race

package bench

// raceEnabled says that the race detector slows everything down.
const raceEnabled = true
