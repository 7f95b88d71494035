package clients

import (
	"context"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/wgstack/wireguard"
)

// PgxPool returns a pool of connections to a PostgreSQL server in the tunnel,
// such as "postgres://user:password@db.internal/name".
func PgxPool(ctx context.Context, dev *wireguard.Device, url string) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	config.ConnConfig.DialFunc = dev.DialContext
	config.ConnConfig.LookupFunc = dev.LookupHost // pgx looks names up before it dials
	return pgxpool.NewWithConfig(ctx, config)
}
