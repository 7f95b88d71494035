// Package credentials has names and passwords of clients.
package credentials

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"os"
	"strings"
)

// CheckFlags checks the flags for a name and a password.
func CheckFlags(flag, user, file string) error {
	switch {
	case user == "" && file != "":
		return errors.New("a password file, but no " + flag)
	case len(user) > 255:
		return errLongCredentials
	}
	return nil
}

var errLongCredentials = errors.New("SOCKS has no names and passwords of more than 255 bytes")

// ReadPassword returns the password of a user, from a file or else a variable,
// and an empty one if there is no user. There is no flag for it: the flags of a
// process are visible to all users.
func ReadPassword(user, variable, flag, file string) (string, error) {
	if user == "" {
		return "", nil
	}
	password := os.Getenv(variable)
	if file != "" {
		b, err := os.ReadFile(file)
		if err != nil {
			return "", err
		}
		password = strings.TrimRight(string(b), "\r\n")
	}
	switch {
	case password == "":
		return "", fmt.Errorf("no password: set $%s or give %s", variable, flag)
	case len(password) > 255:
		return "", errLongCredentials
	}
	return password, nil
}

// Checker returns the function that checks names and passwords, nil if clients
// need none. It takes the same time for all that are wrong.
func Checker(user, password string) func(user, password string) bool {
	if user == "" && password == "" {
		return nil
	}
	wantUser, wantPassword := sha256.Sum256([]byte(user)), sha256.Sum256([]byte(password))
	return func(u, p string) bool {
		// Hashed, so that the time does not depend on the lengths either.
		gotUser, gotPassword := sha256.Sum256([]byte(u)), sha256.Sum256([]byte(p))
		return subtle.ConstantTimeCompare(gotUser[:], wantUser[:])&
			subtle.ConstantTimeCompare(gotPassword[:], wantPassword[:]) == 1
	}
}
