// Package accept has the accept loop that the servers of the examples share.
package accept

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/wgstack/wireguard/examples/internal/warn"
)

// retryAfter is how long to wait after an error, most likely because the process
// has no file descriptors left.
const retryAfter = 100 * time.Millisecond

// Serve accepts the connections of l until ctx ends, and then returns nil, or
// until l is closed. It calls begin for each, in order, and runs what begin
// returns in a goroutine, which must close the connection and end when ctx does.
// When Serve returns, l is closed and those goroutines have ended.
func Serve(ctx context.Context, l net.Listener, warnings *warn.Log, begin func(context.Context, net.Conn) (serve func())) error {
	ctx, cancel := context.WithCancel(ctx)
	var conns sync.WaitGroup
	defer conns.Wait()
	defer cancel()
	defer l.Close()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	for {
		c, err := l.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				c.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		case err != nil:
			warnings.Warn("accept", "a client could not be accepted", "err", err)
			select {
			case <-time.After(retryAfter):
			case <-ctx.Done():
			}
			continue
		}
		conns.Go(begin(ctx, c))
	}
}
