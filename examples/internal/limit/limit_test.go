package limit

import (
	"bytes"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wgstack/wireguard/examples/internal/warn"
)

// A journal adds entries to a table and notes which are evicted.
type journal struct {
	table   Table
	entries map[string]*Entry
	evicted []string
}

// add adds an entry, named after its owner and a number, and lets time pass.
func (j *journal) add(name string) {
	if j.entries == nil {
		j.entries = make(map[string]*Entry)
	}
	j.entries[name] = j.table.Add(name[:1], func() { j.evicted = append(j.evicted, name) })
	time.Sleep(time.Second)
}

func TestAddEvictsLongestIdle(t *testing.T) {
	for _, test := range []struct {
		name             string
		max, maxPerOwner int
		add              string
		touch            string
		then             string
		want             string
	}{
		{"no limit", 0, 0, "a1 a2 b1", "", "a3", ""},
		{"the oldest of the largest owner", 3, 0, "b1 a1 a2", "", "c1", "a1"},
		{"not the one in use", 3, 0, "b1 a1 a2", "a1", "c1", "a2"},
		{"of the owner that has too many", 10, 2, "b1 a1 a2", "", "a3", "a1"},
		{"both limits", 4, 2, "a1 a2 b1 b2", "", "b3 b4", "b1 b2"},
		{"within the limits", 4, 2, "a1 a2 b1", "", "b2", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				j := journal{table: Table{Name: "things", Max: test.max, MaxPerOwner: test.maxPerOwner}}
				for _, name := range strings.Fields(test.add) {
					j.add(name)
				}
				if test.touch != "" {
					j.entries[test.touch].Touch()
				}
				for _, name := range strings.Fields(test.then) {
					j.add(name)
				}
				if got := strings.Join(j.evicted, " "); got != test.want {
					t.Errorf("evicted %q, want %q", got, test.want)
				}
				for name, e := range j.entries {
					e.Remove()
					if slices.Contains(j.evicted, name) {
						e.Remove() // once more does nothing
					}
				}
				if j.table.Len() != 0 || len(j.table.owners) != 0 {
					t.Errorf("%d entries of %d owners left", j.table.Len(), len(j.table.owners))
				}
			})
		})
	}
}

func TestEvict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := journal{}
		for _, name := range strings.Fields("b1 a1 a2 a3") {
			j.add(name)
		}
		j.entries["a2"].Block(1)
		j.entries["a3"].Block(1)
		j.entries["a3"].Block(-1)
		if n := j.table.Evict(2); n != 2 || strings.Join(j.evicted, " ") != "a2 b1" {
			t.Errorf("evicted %d: %v", n, j.evicted)
		}
		if n := j.table.Evict(10); n != 2 || j.table.Len() != 0 {
			t.Errorf("evicted %d, left %d", n, j.table.Len())
		}
	})
}

// TestEvictionIsLogged checks that a flood makes one line that names the limit.
func TestEvictionIsLogged(t *testing.T) {
	var out bytes.Buffer
	table := Table{Name: "SOCKS handshakes", Max: 10, Log: warn.New(slog.New(slog.NewTextHandler(&out, nil)))}
	for range 1000 {
		table.Add("127.0.0.1", func() {})
	}
	got := out.String()
	if strings.Count(got, "\n") != 1 || !strings.Contains(got, "too many SOCKS handshakes") || !strings.Contains(got, "limit=10") {
		t.Errorf("logged:\n%s", got)
	}
}

// TestConnections checks the counters and the list of connections.
func TestConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		j := journal{table: Table{Max: 2}}
		j.add("a1")
		j.add("a2")
		j.entries["a1"].SetTarget("target:80")
		j.entries["a1"].CountSent(3)
		j.entries["a1"].CountReceived(5)
		j.add("c1") // evicts a2
		j.entries["c1"].CountSent(1)
		j.entries["c1"].Remove()
		if got, want := Sum(&j.table), (Totals{Open: 1, Added: 3, Evicted: 1, Sent: 4, Received: 5}); got != want {
			t.Errorf("totals %+v, want %+v", got, want)
		}
		want := Connection{Owner: "a", Target: "target:80", Opened: start, Moved: start.Add(2 * time.Second), Sent: 3, Received: 5}
		got := Latest(10, &j.table)
		if len(got) != 1 || got[0].Owner != want.Owner || got[0].Target != want.Target || !got[0].Opened.Equal(want.Opened) ||
			!got[0].Moved.Equal(want.Moved) || got[0].Sent != want.Sent || got[0].Received != want.Received {
			t.Errorf("connections %+v, want %+v", got, want)
		}
		j.add("b1")
		if got := Latest(1, &j.table); len(got) != 1 || got[0].Sent != 0 {
			t.Errorf("connections %+v, want the latest", got)
		}
	})
}
