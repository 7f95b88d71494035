package failover

import (
	"slices"
	"time"
)

// A ranking is what a group knows about its members, the preferred first.
type ranking struct {
	name      string
	wellAfter int // successful checks in a row
	members   []*member
	active    int // the member in use
}

// A member is a peer or an endpoint.
type member struct {
	name    string
	checked bool
	well    bool // as long as it is not checked too
	streak  int  // of checks that disagree with well
	since   time.Time
	cause   error // why it is not well
}

func newRanking(name string, members []string, wellAfter int) *ranking {
	r := &ranking{name: name, wellAfter: wellAfter}
	for _, name := range members {
		r.members = append(r.members, &member{name: name, well: true, since: time.Now()})
	}
	return r
}

// inherit takes over what earlier rankings know.
func (r *ranking) inherit(earlier []*ranking) {
	for _, e := range earlier {
		if e.name != r.name {
			continue
		}
		for i, m := range r.members {
			j := slices.IndexFunc(e.members, func(o *member) bool { return o.name == m.name })
			if j < 0 {
				continue
			}
			*m = *e.members[j]
			if j == e.active {
				r.active = i
			}
		}
	}
}

// note notes the result of a check: nil if the member has answered. The first
// check decides at once, and so does every failure.
func (r *ranking) note(m *member, err error, now time.Time) {
	first := !m.checked
	m.checked = true
	if (err == nil) == m.well {
		m.streak = 0
		return
	}
	m.streak++
	if err == nil && !first && m.streak < r.wellAfter {
		return
	}
	m.well, m.cause, m.streak, m.since = err == nil, err, 0, now
}

// best returns the first member that is well, and the one in use if none is.
func (r *ranking) best() int {
	if i := slices.IndexFunc(r.members, func(m *member) bool { return m.well }); i >= 0 {
		return i
	}
	return r.active
}

// A Status is the state of a group.
type Status struct {
	Name    string // the peer whose endpoints, or the prefixes whose peers the members are
	Members []MemberStatus
}

// A MemberStatus is the state of a peer or an endpoint in a group.
type MemberStatus struct {
	Name   string
	Active bool // it is in use
	Well   bool // it has answered the latest check, or was not yet checked
	Since  time.Time
	Cause  string // why it is not well
}

// Status returns the state of all groups.
func (c *Controller) Status() []Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []Status
	for _, r := range c.rankings {
		s := Status{Name: r.name}
		for i, m := range r.members {
			ms := MemberStatus{Name: m.name, Active: i == r.active, Well: m.well, Since: m.since}
			if m.cause != nil {
				ms.Cause = m.cause.Error()
			}
			s.Members = append(s.Members, ms)
		}
		all = append(all, s)
	}
	return all
}

// note notes the result of a check of a member.
func (c *Controller) note(r *ranking, m *member, err error) {
	c.mu.Lock()
	was := m.well
	r.note(m, err, time.Now())
	is := m.well
	c.mu.Unlock()
	switch {
	case was && !is:
		c.log.Warn("failover: no answer", "member", m.name, "err", err)
	case !was && is:
		c.log.Info("failover: answers again", "member", m.name)
	}
}

// use makes a member the one in use.
func (c *Controller) use(r *ranking, i int) {
	c.mu.Lock()
	from := r.members[r.active]
	r.active = i
	to := r.members[i]
	c.mu.Unlock()
	c.log.Warn("failover", "for", r.name, "from", from.name, "to", to.name)
}
