package main

import (
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/landlock-lsm/go-landlock/landlock"

	"github.com/wgstack/wireguard/examples/internal/gatewayconf"
)

// systemDirs are what the resolver of the host, certificates and the owners of
// sockets need.
var systemDirs = []string{"/etc", "/proc", "/sys", "/usr", "/lib", "/lib64", "/run/systemd/resolve", "/run/resolvconf", "/run/nscd"}

// restrict takes from the process, by Landlock, all files that it does not need:
// it may read those of the system and those beside the files that the
// configuration names, and may write only to folders of Unix sockets. Where the
// kernel has no Landlock this does nothing. It cannot be undone.
func (o *options) restrict(conf gatewayconf.Config) error {
	if runtime.GOOS != "linux" {
		return nil
	}
	readable, writable := o.sandbox(conf)
	return landlock.V5.BestEffort().RestrictPaths(
		landlock.RODirs(readable...).IgnoreIfMissing(),
		landlock.RWDirs(writable...).IgnoreIfMissing(),
		landlock.RWFiles("/dev/null").IgnoreIfMissing(),
	)
}

// sandbox returns the folders that the program may read and write.
func (o *options) sandbox(conf gatewayconf.Config) (readable, writable []string) {
	readable = slices.Clone(systemDirs)
	for _, file := range append(conf.Files, o.config, o.passwordFile) {
		if file != "" {
			readable = append(readable, filepath.Dir(file))
		}
	}
	addresses := []string{o.listen, o.info.Address}
	for _, proxies := range [][]gatewayconf.Proxy{conf.SOCKS, conf.HTTP, conf.SNI} {
		for _, p := range proxies {
			addresses = append(addresses, p.Listen)
			if p.CertFile != "" {
				readable = append(readable, filepath.Dir(p.CertFile), filepath.Dir(p.KeyFile))
			}
		}
	}
	for _, f := range conf.TCPClients {
		addresses = append(addresses, f.Listen)
	}
	for _, address := range addresses {
		if path, ok := strings.CutPrefix(address, "unix:"); ok {
			writable = append(writable, filepath.Dir(path))
		}
	}
	if o.uapi != "" {
		writable = append(writable, "/var/run", "/run")
	}
	return readable, writable
}
