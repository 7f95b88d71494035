//go:build race

package wireguard

func init() { raceEnabled = true }
