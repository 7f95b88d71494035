package credentials

import (
	"os"
	"path/filepath"
	"testing"
)

func TestPasswordFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte("from a file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	password, err := ReadPassword("me", "SOCKS_PASSWORD", "-password-file", file)
	if err != nil {
		t.Fatal(err)
	}
	if check := Checker("me", password); !check("me", "from a file") || check("me", "from a file\n") || check("you", "from a file") {
		t.Error("the password of the file is not accepted, or another is")
	}
}

func TestMistakes(t *testing.T) {
	t.Setenv("PASSWORD", "")
	if CheckFlags("-user", "", "file") == nil || CheckFlags("-user", "me", "file") != nil {
		t.Error("a file with a password, but no name, is no mistake")
	}
	if _, err := ReadPassword("me", "PASSWORD", "-password-file", ""); err == nil {
		t.Error("an empty password was read")
	}
	if Checker("", "") != nil {
		t.Error("clients need an empty password")
	}
}
