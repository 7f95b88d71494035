package netstack

import (
	"fmt"
	"testing"
	"time"
)

func TestTrackerProbes(t *testing.T) {
	s := newScript(t)
	s.at(0).send(0, 10)
	s.at(10*ms).ack("", 9)
	s.expire(10*ms+20*ms+3*ms, "resend 9")
	// The window has to be reduced although all is acknowledged. What gVisor
	// takes for lost because of that is not sent.
	s.at(43*ms).ack("before 9 [9.001 9.996) [9.997 9.998) [9.999 10)", 10)
	s.wantDrop(9, 10)
	s.send(10, 11)
	s.at(200*ms).ack("", 11)
}

// TestTrackerProbesInVain shows the intervals of probes.
func TestTrackerProbesInVain(t *testing.T) {
	s := newScript(t)
	s.at(0).send(0, 10)
	at, wait := time.Duration(0), 23*ms
	for first := true; s.tr.deadline() != 0; first = false {
		want := "resend 0, resend 9"
		if first {
			want = "resend 9"
		}
		s.expire(at+wait, want)
		if at += wait; at >= steadyProbes {
			wait *= 2
		}
		if wait > maxProbeWait {
			break
		}
	}
	if d := s.tr.deadline(); d != 0 {
		t.Errorf("deadline %v after %v of silence", d, at)
	}
}

// TestTrackerLearnsOfDelay has the acknowledgements of single segments delayed.
// Their timestamps say that they are not for the probes.
func TestTrackerLearnsOfDelay(t *testing.T) {
	for _, test := range []struct {
		name  string
		delay time.Duration
		want  []time.Duration // to wait for a probe beyond 23 ms, for each segment
	}{
		{"sooner after the probe than it could be answered", 30 * ms, []time.Duration{0, 30 * ms, 30 * ms}},
		{"again and again", 60 * ms, []time.Duration{0, 0, 60 * ms, 60 * ms}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newScript(t)
			for i, want := range test.want {
				at := time.Duration(i) * time.Second
				s.at(at).send(float64(i), float64(i+1))
				if got := s.tr.deadline() - s.now - 23*ms; got != want {
					t.Errorf("segment %d: a probe waits %v more, want %v", i, got, want)
				}
				a := s.acknowledgement(float64(i + 1))
				a.echoed, a.known = s.now, true
				if 23*ms+want < test.delay {
					s.expire(at+23*ms+want, fmt.Sprint("resend ", i))
				}
				s.at(at+test.delay).arrive("", a)
				s.tr.srtt, s.tr.rttvar = 10*ms, 0
			}
		})
	}
}
