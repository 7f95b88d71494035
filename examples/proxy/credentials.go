package main

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"os"
	"strings"
)

// checkCredentials checks the flags for a name and a password.
func checkCredentials(user, file string) error {
	switch {
	case user == "" && file != "":
		return errors.New("a password file, but no -user")
	case len(user) > 255:
		return errLongCredentials
	}
	return nil
}

var errLongCredentials = errors.New("SOCKS has no names and passwords of more than 255 bytes")

// readPassword returns the password of a user, empty if there is no user. There
// is no flag for it: the flags of a process are visible to all users.
func readPassword(user, file string) (string, error) {
	if user == "" {
		return "", nil
	}
	password := os.Getenv("SOCKS_PASSWORD")
	if file != "" {
		b, err := os.ReadFile(file)
		if err != nil {
			return "", err
		}
		password = strings.TrimRight(string(b), "\r\n")
	}
	switch {
	case password == "":
		return "", errors.New("no password: set $SOCKS_PASSWORD or give -password-file")
	case len(password) > 255:
		return "", errLongCredentials
	}
	return password, nil
}

// authenticator returns the function that checks names and passwords, nil if
// clients need none.
func authenticator(user, password string) func(user, password string) bool {
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
