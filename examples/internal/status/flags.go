package status

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"sync"

	"github.com/wgstack/wireguard/examples/internal/cli"
	"github.com/wgstack/wireguard/examples/internal/credentials"
)

// Flags are the flags of programs that serve their state.
type Flags struct {
	Address            string // empty: nothing is served
	user, passwordFile string
}

// Register adds the flags to fs.
func (f *Flags) Register(fs *flag.FlagSet) {
	fs.StringVar(&f.Address, "info", "", "serve the status page, /metrics, /healthz and /readyz on `address`")
	fs.StringVar(&f.user, "info-user", "", "`name` for -info, with the password in $INFO_PASSWORD or -info-password-file")
	fs.StringVar(&f.passwordFile, "info-password-file", "", "`file` with the password")
}

// Serve begins to serve s at the address of the flags, until ctx ends or stop is
// called. It sets who may read the state, and prints the address to stdout.
func (f *Flags) Serve(ctx context.Context, s *Server, stdout io.Writer) (stop func(), err error) {
	if err := credentials.CheckFlags("-info-user", f.user, f.passwordFile); err != nil {
		return nil, err
	}
	password, err := credentials.ReadPassword(f.user, "INFO_PASSWORD", "-info-password-file", f.passwordFile)
	if err != nil {
		return nil, err
	}
	s.Authenticate = credentials.Checker(f.user, password)
	l, err := cli.Listen(ctx, f.Address)
	if err != nil {
		return nil, err
	}
	if s.Authenticate == nil && !isLocal(l.Addr()) {
		s.Logger.Warn("without -info-user, only /healthz and /readyz are served", "address", l.Addr())
	}
	if l.Addr().Network() == "unix" {
		fmt.Fprintf(stdout, "status on %s\n", f.Address)
	} else {
		fmt.Fprintf(stdout, "status on %s\n", l.Addr())
	}
	ctx, cancel := context.WithCancel(ctx)
	var server sync.WaitGroup
	server.Go(func() {
		if err := s.Serve(ctx, l); err != nil && !errors.Is(err, net.ErrClosed) {
			s.Logger.Error("status", "err", err)
		}
	})
	return func() {
		cancel()
		server.Wait()
	}, nil
}
