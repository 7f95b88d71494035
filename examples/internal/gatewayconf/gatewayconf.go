// Package gatewayconf reads the configuration of a gateway: a file of
// wg-quick(8), or one of wireproxy, which adds sections for proxies and
// forwards.
//
// It differs from wireproxy in what that does without a word: keys with lists
// accumulate, a variable that is not set is always an error, and keys without a
// meaning here are reported.
package gatewayconf

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/wgstack/wireguard"
	"github.com/wgstack/wireguard/examples/internal/failover"
)

// An Error says what is wrong, and where. It never holds a secret.
type Error struct {
	Path    string
	Line    int
	Section string // may be empty
	Key     string // may be empty
	Err     error  // says what was expected
}

// Error returns the place and the cause.
func (e *Error) Error() string {
	where := fmt.Sprintf("%s:%d: ", e.Path, e.Line)
	if e.Section != "" {
		where += "[" + e.Section + "] "
	}
	if e.Key != "" {
		where += e.Key + ": "
	}
	return where + e.Err.Error()
}

// Unwrap returns e.Err.
func (e *Error) Unwrap() error { return e.Err }

// A Config is what a file says.
type Config struct {
	Tunnel wireguard.Config

	SOCKS      []Proxy
	HTTP       []Proxy
	SNI        []Proxy
	TCPClients []Forward // listen on the host, dial in the tunnel
	TCPServers []Forward // listen in the tunnel, dial on the host
	UDPProxies []Forward // listen on the host, send into the tunnel
	UDPServers []Forward // listen in the tunnel, send on the host; not of wireproxy
	STDIO      []Forward // without a listener

	Failover []failover.Group

	Resolve            string // "auto", "ipv4" or "ipv6": which addresses of a name come first
	CheckAlive         []netip.Addr
	CheckAliveInterval time.Duration

	// HostResolver says that names are looked up by the host, since a wireproxy
	// file has no DNS servers.
	HostResolver bool

	// Files are the paths of what was read.
	Files []string

	// Warnings are about keys and sections that have no effect. Each names file
	// and line.
	Warnings []string
}

// A Proxy is a listener whose clients say where they want to connect to.
type Proxy struct {
	Line              int
	Listen            string // host:port or unix:PATH
	Username          string
	Password          string
	CertFile, KeyFile string
	Certificate       *tls.Certificate // of these files; nil: no TLS

	// TunnelDomains select the hosts that are reached through the tunnel, others
	// are dialled directly; none means all.
	TunnelDomains []*regexp.Regexp
	LogDomains    bool
}

// A Forward is a listener for one target.
type Forward struct {
	Line              int
	Listen            string // host:port or unix:PATH; in the tunnel :port
	Target            string // host:port
	InactivityTimeout time.Duration
}

// Load reads the file at path. It fails with an [*Error], or with the error of
// opening or reading the file.
func Load(path string) (Config, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return Config{}, err
	}
	sections, err := parseINI(path, string(text))
	if err != nil || !isWireproxy(sections) {
		// A wg-quick file, by its own grammar.
		tunnel, err := wireguard.ParseConfig(bytes.NewReader(text))
		return Config{Tunnel: tunnel, Resolve: "auto", Files: []string{path}}, atPath(path, nil, err)
	}
	l := loader{path: path, config: Config{Files: []string{path}, Resolve: "auto", CheckAliveInterval: 5 * time.Second}}
	err = l.load(sections)
	return l.config, err
}

// isWireproxy reports whether a file has something that wg-quick(8) does not
// know.
func isWireproxy(sections []section) bool {
	for i := range sections {
		name := strings.ToLower(sections[i].name)
		_, known := sectionKeys[name]
		_, hasConfig := sections[i].first("wgconfig")
		_, checks := sections[i].first("checkalive")
		if known && name != "" && name != "interface" && name != "peer" || name == "" && hasConfig || name == "interface" && checks {
			return true
		}
	}
	return false
}

// sectionKeys are the keys of sections that have a meaning here.
var sectionKeys = map[string][]string{
	"":          {"wgconfig"},
	"interface": {"privatekey", "address", "dns", "mtu", "listenport", "checkalive", "checkaliveinterval"},
	"peer":      {"publickey", "presharedkey", "endpoint", "allowedips", "persistentkeepalive"},
	"socks5":    {"bindaddress", "username", "password", "tunneldomains", "logdomains"},
	"http":      {"bindaddress", "username", "password", "certfile", "keyfile", "tunneldomains", "logdomains"},
	"sni":       {"bindaddress", "tunneldomains", "logdomains"},

	"tcpclienttunnel": {"bindaddress", "target"},
	"tcpservertunnel": {"listenport", "target"},
	"udpproxytunnel":  {"bindaddress", "target", "inactivitytimeout"},
	"udpservertunnel": {"listenport", "target", "inactivitytimeout"}, // not of wireproxy
	"stdiotunnel":     {"target"},
	"resolve":         {"resolvestrategy"},
	"failover":        {"peer", "allowedips", "endpoint", "probe", "interval"}, // not of wireproxy
}

// isList reports whether a key may be repeated.
func isList(section, key string) bool {
	return slices.Contains([]string{"address", "dns", "allowedips", "checkalive", "tunneldomains"}, key) ||
		section == "failover" && key != "interval"
}

// A loader builds a Config from sections.
type loader struct {
	path   string
	config Config

	wg     []string // the Interface and Peer sections as a wg-quick file
	lines  []int    // where its lines come from
	counts map[string]int

	failovers []*section // those of config.Failover
}

func (l *loader) load(sections []section) error {
	l.counts = make(map[string]int)
	outside, hasOutside := sections[0].first("wgconfig")
	for i := range sections {
		s := &sections[i]
		name := strings.ToLower(s.name)
		if _, ok := sectionKeys[name]; !ok {
			l.warn(s.line, "[%s] is not a section that is known, and has no effect%s", s.name, suggest(s.name, slices.Sorted(maps.Keys(sectionKeys))))
			continue
		}
		if err := l.clean(s, name); err != nil {
			return err
		}
		l.counts[name]++
		if hasOutside && (name == "interface" || name == "peer") {
			l.warn(s.line, "[%s] has no effect beside WGConfig", s.name)
			continue
		}
		if err := l.section(s, name); err != nil {
			return err
		}
	}
	if hasOutside {
		return l.loadOutside(outside)
	}
	return l.loadTunnel(sections)
}

func (l *loader) warn(line int, format string, args ...any) {
	l.config.Warnings = append(l.config.Warnings, fmt.Sprintf("%s:%d: ", l.path, line)+fmt.Sprintf(format, args...))
}

// clean removes the entries that have no effect from s, and expands variables.
func (l *loader) clean(s *section, name string) error {
	seen := make(map[string]bool)
	var kept []entry
	for _, e := range s.entries {
		key := strings.ToLower(e.key)
		switch {
		case !slices.Contains(sectionKeys[name], key):
			l.warn(e.line, "[%s] %s is not a key that is known, and has no effect%s", s.name, e.key, suggest(e.key, sectionKeys[name]))
			continue
		case seen[key] && !isList(name, key):
			l.warn(e.line, "[%s] %s is repeated; the first counts", s.name, e.key)
			continue
		}
		seen[key] = true
		var err error
		if e.value, err = expand(e.value); err != nil {
			return l.fail(s, e, err)
		}
		kept = append(kept, e)
	}
	s.entries = kept
	return nil
}

func (l *loader) fail(s *section, e entry, err error) error {
	return &Error{Path: l.path, Line: e.line, Section: s.name, Key: e.key, Err: err}
}

// section takes over one section.
func (l *loader) section(s *section, name string) error {
	switch name {
	case "interface":
		return l.interfaceSection(s)
	case "peer":
		l.addWG(s.line, "[Peer]")
		for _, e := range s.entries {
			if !strings.EqualFold(e.key, "allowedips") || e.value != "" {
				l.addWG(e.line, e.key+" = "+e.value)
			}
		}
		if e, ok := s.first("allowedips"); !ok || e.value == "" {
			l.addWG(s.line, "AllowedIPs = 0.0.0.0/0, ::/0")
		}
	case "failover":
		return l.failoverSection(s)
	case "resolve":
		return l.resolveSection(s)
	case "socks5", "http", "sni":
		return l.proxySection(s, name)
	case "tcpclienttunnel", "tcpservertunnel", "udpproxytunnel", "udpservertunnel", "stdiotunnel":
		return l.forwardSection(s, name)
	}
	return nil
}

func (l *loader) addWG(line int, text string) {
	l.wg = append(l.wg, strings.ReplaceAll(text, "\n", " "))
	l.lines = append(l.lines, line)
}

func (l *loader) interfaceSection(s *section) error {
	if l.counts["interface"] > 1 {
		return &Error{Path: l.path, Line: s.line, Section: s.name, Err: errors.New("want only one such section")}
	}
	l.addWG(s.line, "[Interface]")
	for _, e := range s.entries {
		switch strings.ToLower(e.key) {
		case "checkalive":
			for text := range strings.SplitSeq(e.value, ",") {
				addr, err := netip.ParseAddr(strings.TrimSpace(text))
				if err != nil {
					return l.fail(s, e, fmt.Errorf("%q: want IP addresses, separated by commas", text))
				}
				l.config.CheckAlive = append(l.config.CheckAlive, addr)
			}
		case "checkaliveinterval":
			interval, err := seconds(e.value, 1)
			if err != nil {
				return l.fail(s, e, err)
			}
			l.config.CheckAliveInterval = interval
		default:
			l.addWG(e.line, e.key+" = "+e.value)
		}
	}
	return nil
}

// seconds parses a number of seconds.
func seconds(text string, least int) (time.Duration, error) {
	n, err := strconv.Atoi(text)
	if err != nil || n < least || n > math.MaxInt32 {
		return 0, fmt.Errorf("%q: want a number of seconds, at least %d", text, least)
	}
	return time.Duration(n) * time.Second, nil
}

// loadTunnel parses the collected sections as a wg-quick file.
func (l *loader) loadTunnel(sections []section) error {
	last := sections[len(sections)-1]
	for name, title := range map[string]string{"interface": "Interface", "peer": "Peer"} {
		if l.counts[name] == 0 {
			return &Error{Path: l.path, Line: last.line, Err: fmt.Errorf("want a section [%s]", title)}
		}
	}
	var err error
	l.config.Tunnel, err = wireguard.ParseConfig(strings.NewReader(strings.Join(l.wg, "\n")))
	if err != nil {
		return atPath(l.path, l.lines, err)
	}
	return l.checkTunnel(l.lines[slices.Index(l.wg, "[Interface]")])
}

// loadOutside reads the tunnel from the file that WGConfig names: beside this
// one if it is a bare name, otherwise from the working directory.
func (l *loader) loadOutside(e entry) error {
	path := e.value
	if filepath.Base(path) == path {
		path = filepath.Join(filepath.Dir(l.path), path)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return &Error{Path: l.path, Line: e.line, Key: e.key, Err: err}
	}
	l.config.Files = append(l.config.Files, path)
	l.config.Tunnel, err = wireguard.ParseConfig(bytes.NewReader(text))
	if err != nil {
		return atPath(path, nil, err)
	}
	return l.checkTunnel(e.line)
}

func (l *loader) checkTunnel(line int) error {
	if l.config.Tunnel.PrivateKey == (wireguard.PrivateKey{}) {
		return &Error{Path: l.path, Line: line, Section: "Interface", Key: "PrivateKey", Err: errors.New("want a key of 32 bytes in base64")}
	}
	l.config.HostResolver = len(l.config.Tunnel.DNS) == 0
	return l.checkFailover()
}

// atPath adds the path to an error of wireguard.ParseConfig, whose lines are
// given by lines if that is not nil.
func atPath(path string, lines []int, err error) error {
	var parse *wireguard.ParseError
	if !errors.As(err, &parse) {
		return err
	}
	line := parse.Line
	if lines != nil && 1 <= line && line <= len(lines) {
		line = lines[line-1]
	}
	return &Error{Path: path, Line: line, Section: parse.Section, Key: parse.Key, Err: parse.Err}
}
