//go:build unix

package wireguard

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// errPortInUse is the error of binding a port that is in use.
const errPortInUse = syscall.EADDRINUSE

const (
	// uapiPoll is the interval of checks whether the socket was removed.
	uapiPoll = time.Second
	// uapiProbe is how long the process that serves a socket may take to accept.
	uapiProbe = time.Second
)

// listenUAPI opens dir/name.sock.
//
// A socket can be accessed as soon as it is bound, by whomever the umask allows,
// and the umask belongs to the whole process. So the socket is bound in a
// directory that only this user can enter, restricted, and then moved into place,
// which replaces a stale one atomically. If two processes do so at the same time,
// the first finds its socket replaced and stops serving.
func listenUAPI(dir, name string) (net.Listener, error) {
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return nil, errors.New("not a valid name")
	}
	path := filepath.Join(dir, name+".sock")
	if len(path) >= len(syscall.RawSockaddrUnix{}.Path) {
		return nil, &fs.PathError{Op: "listen", Path: path, Err: syscall.ENAMETOOLONG}
	}
	if err := os.Mkdir(dir, 0o755); err == nil {
		if err := os.Chmod(dir, 0o755); err != nil { // whatever the umask is
			return nil, err
		}
	} else if !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	if err := checkVacant(path); err != nil {
		return nil, err
	}
	private, err := os.MkdirTemp(dir, ".bind")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(private)
	bound := filepath.Join(private, "s")
	ul, err := net.ListenUnix("unix", &net.UnixAddr{Name: bound, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l := &uapiListener{UnixListener: ul, path: path, done: make(chan struct{})}
	if err := l.publish(bound); err != nil {
		ul.Close()
		return nil, err
	}
	l.watching.Go(l.watch)
	return l, nil
}

// checkVacant fails unless there is nothing at path but a stale socket.
func checkVacant(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return &fs.PathError{Op: "listen", Path: path, Err: syscall.EEXIST}
	}
	c, err := net.DialTimeout("unix", path, uapiProbe)
	switch {
	case err == nil:
		c.Close()
		return &fs.PathError{Op: "listen", Path: path, Err: syscall.EADDRINUSE}
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, fs.ErrNotExist):
		return nil
	}
	return err
}

// uapiListener is a listener that closes when its socket file is removed.
type uapiListener struct {
	*net.UnixListener

	path string
	file fs.FileInfo

	done     chan struct{}
	watching sync.WaitGroup
	closing  sync.Once
	closeErr error
}

// publish moves the socket into place.
func (l *uapiListener) publish(bound string) (err error) {
	if err := os.Chmod(bound, 0o700); err != nil {
		return err
	}
	if l.file, err = os.Lstat(bound); err != nil {
		return err
	}
	return os.Rename(bound, l.path)
}

// present reports whether the socket is where clients look for it.
func (l *uapiListener) present() bool {
	file, err := os.Lstat(l.path)
	return err == nil && os.SameFile(file, l.file)
}

// watch closes the listener when its file was removed or replaced.
func (l *uapiListener) watch() {
	tick := time.NewTicker(uapiPoll)
	defer tick.Stop()
	for {
		select {
		case <-l.done:
			return
		case <-tick.C:
			if !l.present() {
				l.UnixListener.Close()
				return
			}
		}
	}
}

// Addr returns the address at which clients find the socket.
func (l *uapiListener) Addr() net.Addr { return &net.UnixAddr{Name: l.path, Net: "unix"} }

// Close closes the listener and removes its file.
func (l *uapiListener) Close() error {
	l.closing.Do(func() {
		close(l.done)
		l.watching.Wait()
		// Before the listener closes: afterwards the file may be another process's.
		if l.present() {
			l.closeErr = os.Remove(l.path)
		}
		if err := l.UnixListener.Close(); !errors.Is(err, net.ErrClosed) {
			l.closeErr = errors.Join(l.closeErr, err)
		}
	})
	return l.closeErr
}
