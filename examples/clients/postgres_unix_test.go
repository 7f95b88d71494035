//go:build unix

package clients

import (
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
)

// startPostgres starts a PostgreSQL server with an empty database, which the end
// of the test stops, and returns the path of its socket. It skips the test if
// there is no server on this system.
func startPostgres(t *testing.T) (socket string) {
	t.Helper()
	programs := postgresPrograms()
	if programs == "" {
		t.Skip("there is no PostgreSQL here: install the package postgresql")
	}
	dir, err := os.MkdirTemp("", "postgres") // its path must be short, and open to another user
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	credential := unprivileged(t, dir)
	run := func(program string, args ...string) {
		t.Helper()
		cmd := exec.Command(filepath.Join(programs, program), args...)
		cmd.Dir = dir
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: credential}
		if out, err := cmd.CombinedOutput(); err != nil {
			log, _ := os.ReadFile(filepath.Join(dir, "log"))
			t.Fatalf("%s: %v\n%s%s", program, err, out, log)
		}
	}
	data := filepath.Join(dir, "data")
	run("initdb", "-D", data, "-U", "postgres", "-A", "trust", "-N")
	run("pg_ctl", "start", "-D", data, "-w", "-t", "60", "-l", filepath.Join(dir, "log"),
		"-o", "-F -k "+dir+" -c listen_addresses=")
	t.Cleanup(func() { run("pg_ctl", "stop", "-D", data, "-w", "-m", "immediate") })
	return filepath.Join(dir, ".s.PGSQL.5432")
}

// postgresPrograms returns the directory of the server's programs, which Debian
// keeps out of the path; empty if there is none.
func postgresPrograms() string {
	if path, err := exec.LookPath("pg_ctl"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil {
			return filepath.Dir(path)
		}
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/pg_ctl")
	if len(found) == 0 {
		return ""
	}
	return filepath.Dir(found[len(found)-1])
}

// unprivileged returns the user to run PostgreSQL as, which refuses to run as
// root, and gives dir to it. It is nil, for the present one, unless that is root.
func unprivileged(t *testing.T, dir string) *syscall.Credential {
	t.Helper()
	if os.Getuid() != 0 {
		return nil
	}
	nobody, err := user.Lookup("nobody")
	if err != nil {
		t.Skip("PostgreSQL does not run as root, and there is no user nobody")
	}
	uid, err1 := strconv.ParseUint(nobody.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(nobody.Gid, 10, 32)
	if err1 != nil || err2 != nil {
		t.Fatalf("the user nobody is %s:%s", nobody.Uid, nobody.Gid)
	}
	if err := os.Chown(dir, int(uid), int(gid)); err != nil {
		t.Fatal(err)
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
}
