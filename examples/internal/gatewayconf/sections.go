package gatewayconf

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

func (l *loader) resolveSection(s *section) error {
	e, ok := s.first("resolvestrategy")
	switch {
	case l.counts["resolve"] > 1:
		l.warn(s.line, "[%s] is repeated; the first counts", s.name)
	case !ok:
	case !slices.Contains([]string{"auto", "ipv4", "ipv6"}, e.value):
		return l.fail(s, e, fmt.Errorf("%q: want auto, ipv4 or ipv6", e.value))
	default:
		l.config.Resolve = e.value
	}
	return nil
}

func (l *loader) proxySection(s *section, name string) error {
	p := Proxy{Line: s.line}
	for _, e := range s.entries {
		var err error
		switch strings.ToLower(e.key) {
		case "bindaddress":
			p.Listen, err = checkListen(e.value)
		case "username":
			p.Username = e.value
		case "password":
			p.Password = e.value
		case "certfile":
			p.CertFile = e.value
		case "keyfile":
			p.KeyFile = e.value
		case "tunneldomains":
			var re *regexp.Regexp
			re, err = regexp.Compile(e.value)
			p.TunnelDomains = append(p.TunnelDomains, re)
		case "logdomains":
			if p.LogDomains, err = strconv.ParseBool(e.value); err != nil {
				err = fmt.Errorf("%q: want true or false", e.value)
			}
		}
		if err != nil {
			return l.fail(s, e, err)
		}
	}
	where := &Error{Path: l.path, Line: s.line, Section: s.name}
	switch {
	case p.Password != "" && p.Username == "" && name == "socks5":
		// wireproxy would let everyone in.
		where.Key, where.Err = "Username", errors.New("want a name for the password")
		return where
	case (p.CertFile == "") != (p.KeyFile == ""):
		where.Err = errors.New("want both CertFile and KeyFile, or none")
		return where
	case p.CertFile != "":
		certificate, err := tls.LoadX509KeyPair(p.CertFile, p.KeyFile)
		if err != nil {
			where.Key, where.Err = "CertFile and KeyFile", err
			return where
		}
		p.Certificate = &certificate
	}
	p.Listen = l.listenOn(s, p.Listen)
	switch name {
	case "socks5":
		l.config.SOCKS = append(l.config.SOCKS, p)
	case "http":
		l.config.HTTP = append(l.config.HTTP, p)
	case "sni":
		l.config.SNI = append(l.config.SNI, p)
	}
	return nil
}

func (l *loader) forwardSection(s *section, name string) error {
	f := Forward{Line: s.line}
	for _, e := range s.entries {
		var err error
		switch strings.ToLower(e.key) {
		case "bindaddress":
			if f.Listen, err = checkListen(e.value); name == "udpproxytunnel" {
				f.Listen, err = checkAddress(e.value, false)
			}
		case "listenport":
			f.Listen, err = ":"+e.value, checkPort(e.value, 0)
		case "target":
			f.Target, err = checkAddress(e.value, true)
		case "inactivitytimeout":
			f.InactivityTimeout, err = seconds(e.value, 0)
		}
		if err != nil {
			return l.fail(s, e, err)
		}
	}
	if name == "tcpclienttunnel" {
		f.Listen = l.listenOn(s, f.Listen)
	}
	where := &Error{Path: l.path, Line: s.line, Section: s.name}
	switch {
	case f.Target == "":
		where.Key, where.Err = "Target", errors.New("want host:port")
		return where
	case f.Listen == "" && name != "stdiotunnel":
		where.Key, where.Err = map[bool]string{true: "ListenPort", false: "BindAddress"}[strings.HasSuffix(name, "servertunnel")], errors.New("missing")
		return where
	}
	switch name {
	case "tcpclienttunnel":
		l.config.TCPClients = append(l.config.TCPClients, f)
	case "tcpservertunnel":
		l.config.TCPServers = append(l.config.TCPServers, f)
	case "udpproxytunnel":
		l.config.UDPProxies = append(l.config.UDPProxies, f)
	case "udpservertunnel":
		l.config.UDPServers = append(l.config.UDPServers, f)
	case "stdiotunnel":
		l.config.STDIO = append(l.config.STDIO, f)
	}
	return nil
}

// listenOn returns the address of a listener, which by default is one that
// nobody wants.
func (l *loader) listenOn(s *section, address string) string {
	if address == "" {
		l.warn(s.line, "[%s] has no BindAddress: it listens on all addresses, and the system chooses the port", s.name)
		return ":0"
	}
	return address
}

// checkListen checks an address to listen on: host:port or unix:PATH.
func checkListen(text string) (string, error) {
	if path, ok := strings.CutPrefix(text, "unix:"); ok && path != "" {
		return text, nil
	}
	return checkAddress(text, false)
}

// checkAddress checks the form of host:port. Unless the port must be a number,
// from 1, it may be 0 or the name of a service.
func checkAddress(text string, numeric bool) (string, error) {
	_, port, err := net.SplitHostPort(text)
	if err != nil {
		return "", fmt.Errorf("%q: want host:port", text)
	}
	if numeric {
		return text, checkPort(port, 1)
	}
	if n, err := net.LookupPort("tcp", port); err != nil || n > 65535 || port == "" {
		return "", fmt.Errorf("%q: want a port from 0 to 65535", text)
	}
	return text, nil
}

func checkPort(text string, least uint64) error {
	if n, err := strconv.ParseUint(text, 10, 16); err != nil || n < least {
		return fmt.Errorf("%q: want a port from %d to 65535", text, least)
	}
	return nil
}
