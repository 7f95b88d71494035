//go:build !unix

package clients

import "testing"

func startPostgres(t *testing.T) (socket string) {
	t.Skip("the test starts PostgreSQL on Unix only")
	return ""
}
