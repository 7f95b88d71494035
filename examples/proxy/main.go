// Proxy is a SOCKS 5 gateway into a WireGuard tunnel, without root and without
// a network interface: what speaks SOCKS reaches the tunnel through it, nothing
// else does.
//
//	proxy -config wg0.conf
//	curl --socks5-hostname 127.0.0.1:1080 http://intranet.example/
//
// With -demo it needs no configuration: it brings its own far end, with a small
// web site to fetch.
package main

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/wgstack/wireguard"
	"github.com/wgstack/wireguard/examples/internal/cli"
	"github.com/wgstack/wireguard/examples/internal/socks"
)

func main() { cli.Main(run) }

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	fs := cli.Flags("proxy", stderr)
	config := fs.String("config", "", "configuration of the tunnel, a `file` as for wg-quick")
	demo := fs.Bool("demo", false, "make a tunnel to a far end in this process instead")
	listen := fs.String("socks", "127.0.0.1:1080", "`address` to serve SOCKS on")
	user := fs.String("user", "", "`name` that clients must give, with the password in $SOCKS_PASSWORD or -password-file")
	passwordFile := fs.String("password-file", "", "`file` with the password")
	uapi := fs.String("uapi", "", "let wg(8) show and change the tunnel under this interface `name`")
	verbose := fs.Bool("v", false, "log what happens")
	if err := cli.Parse(fs, args, 0); err != nil {
		return err
	}
	if *demo == (*config != "") {
		return cli.Usage(fs, "give one of -config and -demo")
	}
	authenticate, err := credentials(*user, *passwordFile)
	if err != nil {
		return err
	}
	log := cli.Logger(stderr, *verbose)

	var cfg wireguard.Config
	if *demo {
		far, err := startFarEnd(log)
		if err != nil {
			return err
		}
		defer far.Close()
		cfg = far.near
	} else if cfg, err = cli.Load(*config, log); err != nil {
		return err
	}
	dev, err := wireguard.New(cfg)
	if err != nil {
		return err
	}
	defer dev.Close()
	if *uapi != "" {
		ctl, err := wireguard.ListenUAPI(*uapi)
		if err != nil {
			return err
		}
		defer ctl.Close()
		var stop context.CancelFunc
		ctx, stop = context.WithCancel(ctx)
		go func() {
			// It ends when its socket is deleted, which asks a daemon to end.
			defer stop()
			if err := dev.ServeUAPI(ctl); err != nil {
				log.Error("configuration protocol", "err", err)
			}
		}()
	}

	l, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	at := l.Addr().(*net.TCPAddr).AddrPort()
	if !at.Addr().Unmap().IsLoopback() && authenticate == nil {
		log.Warn("whoever reaches the gateway can use the tunnel: give -user", "address", at)
	}
	fmt.Fprintf(stdout, "SOCKS 5 on %s\n", at)
	if *demo {
		printDemo(stdout, at, *user)
	}
	s := socks.Server{Network: dev, Authenticate: authenticate, Logger: log}
	return s.Serve(ctx, l)
}

// credentials returns the check of names and passwords, nil if clients need
// none. The password is no flag: everybody can see those in a list of
// processes.
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
		// Hashed, so that the time tells nothing, the lengths included.
		gotUser, gotPassword := sha256.Sum256([]byte(u)), sha256.Sum256([]byte(p))
		return subtle.ConstantTimeCompare(gotUser[:], wantUser[:])&
			subtle.ConstantTimeCompare(gotPassword[:], wantPassword[:]) == 1
	}, nil
}

func printDemo(w io.Writer, at netip.AddrPort, user string) {
	curl := "curl --socks5-hostname " + at.String()
	if at.Addr().IsUnspecified() {
		curl = fmt.Sprintf("curl --socks5-hostname localhost:%d", at.Port())
	}
	if user != "" {
		curl += fmt.Sprintf(` --proxy-user "%s:$SOCKS_PASSWORD"`, user)
	}
	fmt.Fprintf(w, `
Try, in another terminal:

  %[1]s http://%[2]s/
  %[1]s 'http://[%[3]s]/'
  %[1]s http://%[4]s/
  %[1]s -D- -o 1g http://%[2]s/bytes/1073741824 && sha256sum 1g

`, curl, demoName, farAddr6, farAddr4)
}
