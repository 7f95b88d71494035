package clients

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
)

func TestPgxPool(t *testing.T) {
	socket := startPostgres(t)
	near, far := newTunnel(t, "db.internal. 60 IN A 10.0.0.2")
	forward(t, far, ":5432", "unix", socket)

	ctx := limited(t)
	pool, err := PgxPool(ctx, near, "postgres://postgres@db.internal/postgres")
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	if _, err := pool.Exec(ctx, "CREATE TABLE lines (number int, text text)"); err != nil {
		t.Fatal(err)
	}
	const lines = 20_000
	source := pgx.CopyFromSlice(lines, func(i int) ([]any, error) { return []any{i, "some text"}, nil })
	if n, err := pool.CopyFrom(ctx, pgx.Identifier{"lines"}, []string{"number", "text"}, source); n != lines || err != nil {
		t.Fatalf("copied %d lines, %v; want %d", n, err, lines)
	}
	rows, err := pool.Query(ctx, "SELECT number FROM lines ORDER BY number")
	if err != nil {
		t.Fatal(err)
	}
	numbers, err := pgx.CollectRows(rows, pgx.RowTo[int])
	if err != nil || len(numbers) != lines || numbers[lines-1] != lines-1 {
		t.Errorf("read %d lines, %v; want %d", len(numbers), err, lines)
	}

	db := stdlib.OpenDBFromPool(pool)
	defer db.Close()
	var count int
	if err := db.QueryRowContext(ctx, "SELECT count(*) FROM lines").Scan(&count); err != nil || count != lines {
		t.Errorf("database/sql counts %d lines, %v; want %d", count, err, lines)
	}

	// pgx ends a query by setting a deadline of its connection, as the end of the
	// context does.
	short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	if _, err := pool.Exec(short, "SELECT pg_sleep(3600)"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a query that takes longer than its context: %v", err)
	}
}
