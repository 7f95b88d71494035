package main

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"os"
	"strings"
)

// credentials returns the function that checks names and passwords, nil if
// clients need none. There is no flag for the password: the flags of a process
// are visible to all users.
func credentials(user, file string) (func(user, password string) bool, error) {
	password := os.Getenv("SOCKS_PASSWORD")
	if file != "" {
		b, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		password = strings.TrimRight(string(b), "\r\n")
	}
	switch {
	case user == "" && file == "":
		return nil, nil
	case user == "":
		return nil, errors.New("a password file, but no -user")
	case password == "":
		return nil, errors.New("no password: set $SOCKS_PASSWORD or give -password-file")
	case len(user) > 255 || len(password) > 255:
		return nil, errors.New("SOCKS has no names and passwords of more than 255 bytes")
	}
	wantUser, wantPassword := sha256.Sum256([]byte(user)), sha256.Sum256([]byte(password))
	return func(u, p string) bool {
		// Hashed, so that the time does not depend on the lengths either.
		gotUser, gotPassword := sha256.Sum256([]byte(u)), sha256.Sum256([]byte(p))
		return subtle.ConstantTimeCompare(gotUser[:], wantUser[:])&
			subtle.ConstantTimeCompare(gotPassword[:], wantPassword[:]) == 1
	}, nil
}
