package bench

import (
	"container/heap"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wgstack/wireguard/internal/udp"
)

// A line carries datagrams of one direction through a link. Datagrams that
// arrive at one time remain one message, as they were sent, so that the line
// costs the machine little: see BenchmarkRelay.
type line struct {
	send  func([]udp.Message) // constant; called with mu held, so that order is kept
	alarm *alarm              // constant

	mu      sync.Mutex // guards what follows
	link    *link
	parcels parcelHeap
	number  uint64 // of the last parcel
	armed   time.Time
	closed  bool
	batch   []udp.Message
	free    [2][][]byte // buffers to use again, by class
}

func newLine(seed uint64, send func([]udp.Message)) *line {
	l := &line{link: newLink(seed), send: send}
	l.alarm = newAlarm(l.expire)
	return l
}

// setCondition applies to datagrams that are sent from now on.
func (l *line) setCondition(c condition) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.link.condition = c
}

// carry takes received messages, whose buffers it does not keep.
func (l *line) carry(ms []udp.Message) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	now := time.Now()
	for i := range ms {
		l.pack(&ms[i], now)
	}
	l.deliver(now)
}

// pack makes parcels of the datagrams of a message that arrive.
func (l *line) pack(m *udp.Message, now time.Time) {
	var p parcel
	in, size := m.Buf[:m.N], m.SegmentSize
	if size == 0 {
		size = max(1, len(in))
	}
	for first := true; first || len(in) > 0; first = false {
		segment := in[:min(size, len(in))]
		in = in[len(segment):]
		due, ok := l.link.arrival(now, len(segment))
		if !ok {
			continue
		}
		if p.buf != nil && !p.due.Equal(due) {
			l.push(p)
			p.buf = nil
		}
		if p.buf == nil {
			p = parcel{due: due, buf: l.buffer(m.N), tos: m.TOS, segment: m.SegmentSize}
		}
		p.buf = append(p.buf, segment...)
	}
	if p.buf != nil {
		l.push(p)
	}
}

func (l *line) push(p parcel) {
	l.number++
	p.number = l.number
	heap.Push(&l.parcels, p)
}

// deliver sends what is due, and sets the alarm to the next parcel.
func (l *line) deliver(now time.Time) {
	for len(l.parcels) > 0 && !l.parcels[0].due.After(now) {
		p := heap.Pop(&l.parcels).(parcel)
		l.batch = append(l.batch, udp.Message{Buf: p.buf, SegmentSize: p.segment, TOS: p.tos})
		if len(l.batch) == lineBatch {
			l.flush()
		}
	}
	l.flush()
	if len(l.parcels) == 0 || l.armed.Equal(l.parcels[0].due) {
		return
	}
	l.armed = l.parcels[0].due
	l.alarm.set(l.armed.Sub(now))
}

func (l *line) expire() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		l.armed = time.Time{}
		l.deliver(time.Now())
	}
}

func (l *line) flush() {
	if len(l.batch) == 0 {
		return
	}
	l.send(l.batch)
	for _, m := range l.batch {
		class := bufferClass(cap(m.Buf))
		l.free[class] = append(l.free[class], m.Buf[:0])
	}
	l.batch = l.batch[:0]
}

// close drops what is on its way.
func (l *line) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	l.alarm.close()
}

// lineBatch is the largest number of messages in a system call.
const lineBatch = 64

// bufferSizes are the sizes of the two classes of buffers.
var bufferSizes = [2]int{2 << 10, 64 << 10}

func bufferClass(size int) int {
	if size <= bufferSizes[0] {
		return 0
	}
	return 1
}

func (l *line) buffer(size int) []byte {
	class := bufferClass(size)
	if n := len(l.free[class]); n > 0 {
		b := l.free[class][n-1]
		l.free[class] = l.free[class][:n-1]
		return b
	}
	return make([]byte, 0, bufferSizes[class])
}

// A parcel is the datagrams of one message that arrive at the same time.
type parcel struct {
	due     time.Time
	number  uint64 // parcels that are due at the same time keep their order
	buf     []byte
	segment int // 0: a single datagram
	tos     uint8
}

type parcelHeap []parcel

func (h parcelHeap) Len() int      { return len(h) }
func (h parcelHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *parcelHeap) Push(p any)   { *h = append(*h, p.(parcel)) }
func (h parcelHeap) Less(i, j int) bool {
	if h[i].due.Equal(h[j].due) {
		return h[i].number < h[j].number
	}
	return h[i].due.Before(h[j].due)
}
func (h *parcelHeap) Pop() any {
	last := len(*h) - 1
	p := (*h)[last]
	(*h)[last] = parcel{}
	*h = (*h)[:last]
	return p
}

// A transcript is what leaves a line: each message as the letters of its
// datagrams.
type transcript []string

func (s *transcript) send(ms []udp.Message) {
	for _, m := range ms {
		size := max(m.SegmentSize, 1)
		if m.SegmentSize == 0 {
			size = len(m.Buf)
		}
		var letters strings.Builder
		for b := range slices.Chunk(m.Buf, size) {
			fmt.Fprintf(&letters, "%c%d", b[0], len(b))
		}
		*s = append(*s, letters.String())
	}
}

// lettered makes a message of datagrams of a size, one for each letter.
func lettered(letters string, size int) udp.Message {
	var b []byte
	for _, letter := range letters {
		b = append(b, strings.Repeat(string(letter), size)...)
	}
	m := udp.Message{Buf: b, N: len(b)}
	if len(letters) > 1 {
		m.SegmentSize = size
	}
	return m
}

// what leaves after the time, and only that, is want.
func (s *transcript) want(t *testing.T, l *line, after time.Duration, want ...string) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.deliver(epoch.Add(after))
	if !slices.Equal(*s, want) {
		t.Errorf("after %v left %v, want %v", after, *s, want)
	}
	*s = nil
}

// epoch is far in the future, so that no alarm goes off during a test.
var epoch = time.Now().Add(24 * time.Hour)

func TestLineKeepsMessages(t *testing.T) {
	var s transcript
	l := newLine(1, s.send)
	defer l.close()
	l.setCondition(condition{delay: 10 * time.Millisecond})
	in := lettered("abc", 100)
	in.N -= 30 // the last is shorter
	l.pack(&in, epoch)
	in = lettered("d", 300)
	l.pack(&in, epoch)
	in = lettered("e", 3000)
	l.pack(&in, epoch.Add(time.Millisecond))
	s.want(t, l, 10*time.Millisecond-1)
	s.want(t, l, 10*time.Millisecond, "a100b100c70", "d300")
	s.want(t, l, 11*time.Millisecond, "e3000")
	s.want(t, l, time.Hour)
}

// A late datagram leaves its message, and arrives after those sent meanwhile.
func TestLineOrder(t *testing.T) {
	var s transcript
	l := newLine(1, s.send)
	defer l.close()
	l.setCondition(condition{delay: 10 * time.Millisecond, late: 1, lateness: 2 * time.Millisecond})
	in := lettered("x", 10)
	l.pack(&in, epoch)
	l.setCondition(condition{delay: 10 * time.Millisecond})
	in = lettered("ab", 10)
	l.pack(&in, epoch.Add(time.Millisecond))
	in = lettered("c", 10)
	l.pack(&in, epoch.Add(3*time.Millisecond))
	s.want(t, l, 11*time.Millisecond, "a10b10")
	s.want(t, l, 20*time.Millisecond, "x10", "c10")
}

// What remains of a message after losses is one message, or with a rate as many
// as there are datagrams.
func TestLineLosses(t *testing.T) {
	var s transcript
	l := newLine(3, s.send)
	defer l.close()
	c := condition{loss: 0.5}
	l.setCondition(c)
	in := lettered("abcdefgh", 10)
	want := ""
	for i, d := range pass(linkOf(c, 3), 8, 10, 0) {
		if d >= 0 {
			want += fmt.Sprintf("%c10", 'a'+i)
		}
	}
	if len(want) == 0 || len(want) == 8*3 {
		t.Fatalf("the seed loses none or all")
	}
	l.pack(&in, epoch)
	s.want(t, l, 0, want)

	l.setCondition(condition{rate: 10_000, queue: 25}) // 1 ms each, room for two
	in = lettered("abc", 10)
	l.pack(&in, epoch)
	s.want(t, l, time.Millisecond, "a10")
	s.want(t, l, 2*time.Millisecond, "b10")
	s.want(t, l, time.Hour)
}
