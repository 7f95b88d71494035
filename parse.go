package wireguard

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/wgstack/wireguard/netstack"
)

// The file format of wg(8), "CONFIGURATION FILE FORMAT", and the additions of
// wg-quick(8) to its [Interface] section.

// A ParseError says what is wrong with a configuration file, and where. It
// never holds a secret key.
type ParseError struct {
	Line    int    // from 1
	Section string // "Interface" or "Peer"; empty before the first and for an unknown one
	Key     string // such as "AllowedIPs"; empty if there is none
	Err     error
}

// Error returns the place and the cause.
func (e *ParseError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "wireguard: line %d: ", e.Line)
	if e.Section != "" {
		fmt.Fprintf(&b, "[%s] ", e.Section)
	}
	if e.Key != "" {
		fmt.Fprintf(&b, "%s: ", e.Key)
	}
	b.WriteString(e.Err.Error())
	return b.String()
}

// Unwrap returns e.Err.
func (e *ParseError) Unwrap() error { return e.Err }

// ParseConfig reads a configuration in the format of wg(8) and wg-quick(8). It
// fails with a [*ParseError], or with the error of r.
//
// As with wg, sections and keys may be in any case, '#' starts a comment, and
// spaces inside values of wg's own keys are ignored. The last of a repeated key
// counts, but keys with lists accumulate. A second section for the same peer
// replaces the keys that it has, and always its AllowedIPs, unless they are
// given as changes ("+10.0.0.0/8, -10.1.0.0/16"). The endpoint may be a host
// name, which is not looked up. The private key may be missing.
func ParseConfig(r io.Reader) (Config, error) {
	p := parser{blank: true}
	in := bufio.NewReader(r)
	if err := checkEncoding(in); err != nil {
		return Config{}, &ParseError{Line: 1, Err: err}
	}
	for {
		line, err := in.ReadString('\n')
		if err != nil && err != io.EOF {
			return Config{}, fmt.Errorf("wireguard: reading the configuration: %w", err)
		}
		p.line++
		p.key = ""
		line = trimNUL(line)
		p.blank = p.blank && strings.Trim(line, space) == ""
		if err := p.parseLine(line); err != nil {
			return Config{}, &ParseError{p.line, p.section, p.key, err}
		}
		if err == io.EOF {
			break
		}
	}
	if p.blank {
		return Config{}, &ParseError{Line: 1, Err: errors.New("the file is empty")}
	}
	for _, s := range p.peers {
		if !s.hasPublicKey {
			return Config{}, &ParseError{s.line, sectionPeer, "PublicKey", errors.New("missing")}
		}
	}
	p.cfg.Peers = mergePeers(p.peers)
	return p.cfg, nil
}

// trimNUL removes NUL bytes at the end of a line, where programs that write a
// string with its terminator leave one. wg ignores what follows the first NUL in
// a line, and wg-quick the NUL itself, so another one is an error.
func trimNUL(line string) string {
	if i := strings.IndexByte(line, 0); i >= 0 && strings.Trim(line[i:], "\x00"+space) == "" {
		return line[:i]
	}
	return line
}

// checkEncoding refuses a file that is not plain UTF-8 and says so, since the
// first line would otherwise give an error that does not show why.
func checkEncoding(in *bufio.Reader) error {
	head, _ := in.Peek(3) // a short file gives what there is; reading on gives the error
	switch {
	case bytes.HasPrefix(head, []byte("\xef\xbb\xbf")):
		return errors.New("file begins with a byte order mark: save it as UTF-8 without one")
	case bytes.HasPrefix(head, []byte{0xff, 0xfe}), bytes.HasPrefix(head, []byte{0xfe, 0xff}),
		len(head) > 1 && (head[0] == 0) != (head[1] == 0):
		return errors.New("file is UTF-16: save it as UTF-8")
	}
	return nil
}

const (
	sectionInterface = "Interface"
	sectionPeer      = "Peer"

	space = " \t\n\v\f\r"
)

var errNoValue = errors.New("no value")

type parser struct {
	cfg   Config
	peers []peerSection

	blank bool // no line so far has more than spaces

	// The present position, for errors.
	line    int
	section string
	key     string
}

// A peerSection is one [Peer] section. Several may have the same public key;
// each then changes the configuration of the earlier ones.
type peerSection struct {
	line         int
	hasPublicKey bool
	publicKey    PublicKey
	presharedKey *PresharedKey
	endpoint     string
	keepalive    *time.Duration
	allowedIPs   []allowedIPChange
	incremental  bool // allowedIPs add to those of earlier sections
}

// wgKeys maps, for each section, the lower-case form of the keys of wg to the
// documented form. wg ignores spaces in them.
var wgKeys = map[string]map[string]string{
	sectionInterface: namesByLower("PrivateKey", "ListenPort", "FwMark"),
	sectionPeer:      namesByLower("PublicKey", "PresharedKey", "AllowedIPs", "Endpoint", "PersistentKeepalive"),
}

// quickKeys are the keys that wg-quick removes from [Interface] before wg reads
// the section. It does not ignore spaces in them.
var quickKeys = namesByLower("Address", "DNS", "MTU", "Table", "SaveConfig", "PreUp", "PostUp", "PreDown", "PostDown")

func namesByLower(names ...string) map[string]string {
	m := make(map[string]string, len(names))
	for _, name := range names {
		m[strings.ToLower(name)] = name
	}
	return m
}

func (p *parser) parseLine(line string) error {
	text, _, _ := strings.Cut(line, "#")
	bare := removeSpace(text)
	if bare == "" {
		return nil
	}
	switch {
	case strings.EqualFold(bare, "[Interface]"):
		p.section = sectionInterface
		return nil
	case strings.EqualFold(bare, "[Peer]"):
		p.section = sectionPeer
		p.peers = append(p.peers, peerSection{line: p.line})
		return nil
	case bare[0] == '[':
		p.section = ""
		if name := loggableName(strings.Trim(bare, "[]")); name != "" {
			return fmt.Errorf("unknown section [%s]", name)
		}
		return errors.New("unknown section")
	}

	key, value, found := strings.Cut(text, "=")
	key = strings.Trim(key, space)
	name := wgKeys[p.section][strings.ToLower(removeSpace(key))]
	quick := false
	if name == "" && p.section == sectionInterface {
		name, quick = quickKeys[strings.ToLower(key)]
	}
	if name == "" {
		p.key = loggableName(key)
	} else {
		p.key = name
	}
	switch {
	case p.section == "":
		return errors.New("outside of [Interface] and [Peer]")
	case !found:
		return errors.New("not of the form key = value")
	case name == "":
		return errors.New("unknown key")
	}

	if hook := p.cfg.hook(name); hook != nil {
		// A '#' in a command does not start a comment.
		_, value, _ = strings.Cut(line, "=")
		if value = strings.Trim(value, space); value != "" {
			*hook = append(*hook, value)
		}
		return nil
	}
	if quick {
		value = strings.Trim(value, space)
	} else {
		value = removeSpace(value)
	}
	switch {
	case value == "" && quick && name != "SaveConfig":
		return nil // as wg-quick does; generators of files write such keys
	case value == "":
		return errNoValue
	case p.section == sectionPeer:
		return p.peers[len(p.peers)-1].setKey(name, value)
	}
	return p.setInterfaceKey(name, value)
}

func (p *parser) setInterfaceKey(name, value string) (err error) {
	c := &p.cfg
	switch name {
	case "PrivateKey":
		c.PrivateKey, err = ParsePrivateKey(value)
		return keyError(err)
	case "ListenPort":
		n, err := strconv.ParseUint(value, 10, 16)
		if err != nil {
			return badValue(value, errors.New("not 0 to 65535"))
		}
		c.ListenPort = uint16(n)
	case "FwMark":
		c.FwMark, err = parseFwMark(value)
	case "Address":
		for _, s := range splitList(value) {
			a, err := parsePrefix(s)
			if err == nil {
				a, err = netstack.CanonicalAddress(a)
			}
			if err != nil {
				return badValue(s, err)
			}
			c.Address = append(c.Address, a)
		}
	case "DNS":
		for _, s := range splitList(value) {
			if strings.Contains(s, ":") || strings.Trim(s, "0123456789.") == "" {
				a, err := netip.ParseAddr(s)
				if err != nil {
					return badValue(s, errAddr)
				}
				if a, err = canonicalDNS(a); err != nil {
					return badValue(s, err)
				}
				c.DNS = append(c.DNS, a)
			} else if isHostName(s) {
				c.DNSSearch = append(c.DNSSearch, s)
			} else {
				return badValue(s, errHostName)
			}
		}
	case "MTU":
		n, err := strconv.ParseUint(value, 10, 31)
		if err != nil {
			return badValue(value, errors.New("not a number"))
		}
		if n != 0 {
			if err := checkMTU(int(n)); err != nil {
				return badValue(value, err)
			}
		}
		c.MTU = int(n)
	case "Table":
		c.Table = value
	case "SaveConfig":
		switch {
		case strings.EqualFold(value, "true"):
			c.SaveConfig = true
		case strings.EqualFold(value, "false"):
			c.SaveConfig = false
		default:
			return badValue(value, errors.New("neither true nor false"))
		}
	}
	return err
}

// hook returns the list of commands called name, nil if there is none.
func (c *Config) hook(name string) *[]string {
	switch name {
	case "PreUp":
		return &c.PreUp
	case "PostUp":
		return &c.PostUp
	case "PreDown":
		return &c.PreDown
	case "PostDown":
		return &c.PostDown
	}
	return nil
}

func (s *peerSection) setKey(name, value string) (err error) {
	switch name {
	case "PublicKey":
		s.publicKey, err = ParsePublicKey(value)
		s.hasPublicKey = true
		return keyError(err)
	case "PresharedKey":
		k, err := ParsePresharedKey(value)
		s.presharedKey = &k
		return keyError(err)
	case "AllowedIPs":
		return s.addAllowedIPs(value)
	case "Endpoint":
		s.endpoint, err = canonicalEndpoint(value)
		if err != nil {
			return badValue(value, err)
		}
	case "PersistentKeepalive":
		var n uint64
		if !strings.EqualFold(value, "off") {
			n, err = strconv.ParseUint(value, 10, 16)
			if err != nil {
				return badValue(value, errors.New("neither off nor 0 to 65535"))
			}
		}
		d := time.Duration(n) * time.Second
		s.keepalive = &d
	}
	return nil
}

// addAllowedIPs adds the prefixes of one line. As in wg, the last line decides
// whether the section replaces the prefixes of earlier sections.
func (s *peerSection) addAllowedIPs(value string) error {
	s.incremental = false
	for item := range strings.SplitSeq(value, ",") {
		text, remove := strings.CutPrefix(item, "-")
		if !remove {
			text, _ = strings.CutPrefix(item, "+")
		}
		if len(text) != len(item) {
			s.incremental = true
		}
		q, err := parsePrefix(text)
		if err != nil {
			return badValue(item, err)
		}
		s.allowedIPs = append(s.allowedIPs, allowedIPChange{canonicalPrefix(q), remove})
	}
	return nil
}

// mergePeers applies the sections in order, as wg would to a device.
func mergePeers(sections []peerSection) []PeerConfig {
	var peers []PeerConfig
	byKey := make(map[PublicKey]int)
	owner := make(map[netip.Prefix]int)
	for _, s := range sections {
		i, ok := byKey[s.publicKey]
		if !ok {
			i = len(peers)
			byKey[s.publicKey] = i
			peers = append(peers, PeerConfig{PublicKey: s.publicKey})
		}
		p := &peers[i]
		if s.presharedKey != nil {
			p.PresharedKey = *s.presharedKey
		}
		if s.endpoint != "" {
			p.Endpoint = s.endpoint
		}
		if s.keepalive != nil {
			p.PersistentKeepalive = *s.keepalive
		}
		if !s.incremental {
			for _, ip := range p.AllowedIPs {
				if owner[ip] == i {
					delete(owner, ip)
				}
			}
			p.AllowedIPs = nil
		}
		for _, c := range s.allowedIPs {
			o, owned := owner[c.prefix]
			switch {
			case !c.remove:
				if owned && o == i {
					continue
				}
				owner[c.prefix] = i
				p.AllowedIPs = append(p.AllowedIPs, c.prefix)
			case owned && o == i:
				delete(owner, c.prefix)
			}
		}
	}
	for i := range peers {
		p := &peers[i]
		// Deleting the owner of each prefix that is kept drops a second mention.
		p.AllowedIPs = slices.DeleteFunc(p.AllowedIPs, func(ip netip.Prefix) bool {
			if o, ok := owner[ip]; !ok || o != i {
				return true
			}
			delete(owner, ip)
			return false
		})
	}
	return peers
}

func parseFwMark(s string) (uint32, error) {
	if strings.EqualFold(s, "off") {
		return 0, nil
	}
	digits, base := s, 10
	if hex, ok := strings.CutPrefix(s, "0x"); ok {
		digits, base = hex, 16
	}
	n, err := strconv.ParseUint(digits, base, 32)
	if err != nil {
		return 0, badValue(s, errors.New("neither off nor 0 to 0xffffffff"))
	}
	return uint32(n), nil
}

// parsePrefix parses an address with or without a mask, which may have leading
// zeros: unlike netip.ParsePrefix, as wg does.
func parsePrefix(s string) (netip.Prefix, error) {
	text, mask, found := strings.Cut(s, "/")
	a, err := netip.ParseAddr(text)
	if err != nil || a.Zone() != "" {
		return netip.Prefix{}, errAddr
	}
	n := uint64(a.BitLen())
	if found {
		n, err = strconv.ParseUint(mask, 10, 32)
		if err != nil || n > uint64(a.BitLen()) {
			return netip.Prefix{}, fmt.Errorf("mask is not 0 to %d", a.BitLen())
		}
	}
	return netip.PrefixFrom(a, int(n)), nil
}

func badValue(s string, err error) error { return fmt.Errorf("%q: %w", clip(s), err) }

// keyError drops the kind of the key from err, since the ParseError names it.
func keyError(err error) error {
	if err != nil {
		return errKeySyntax
	}
	return nil
}

// loggableName returns s if it looks like the name of a configuration key, and
// the empty string if it may be a secret key without a name.
func loggableName(s string) string {
	const longest = len("ExcludedApplications")
	if len(s) > longest {
		return ""
	}
	for _, c := range []byte(s) {
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9') {
			return ""
		}
	}
	return s
}

// splitList splits at commas and spaces, as wg-quick does.
func splitList(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' || strings.ContainsRune(space, r) })
}

func removeSpace(s string) string {
	return strings.Join(strings.FieldsFunc(s, func(r rune) bool { return strings.ContainsRune(space, r) }), "")
}
