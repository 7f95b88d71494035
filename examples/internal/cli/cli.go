// Package cli has what the examples share as programs: signals, the
// configuration file, logging.
package cli

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/wgstack/wireguard"
)

// errUsage stands for an error that has been reported.
var errUsage = errors.New("usage")

// Main runs a program until it ends or a signal tells it to, and exits with
// status 0 if run returns nil, after a signal too. A second signal kills the
// process.
func Main(run func(ctx context.Context, args []string, stdout, stderr io.Writer) error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		os.Exit(0)
	case errors.Is(err, errUsage):
		os.Exit(2)
	}
	fmt.Fprintf(os.Stderr, "%s: %v\n", filepath.Base(os.Args[0]), err)
	os.Exit(1)
}

// Flags returns a flag set that reports errors to stderr.
func Flags(name string, stderr io.Writer) *flag.FlagSet {
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	fs.SetOutput(stderr)
	return fs
}

// Parse parses args, after which narg arguments must remain. It reports the
// error that it returns.
func Parse(fs *flag.FlagSet, args []string, narg int) error {
	stderr := fs.Output()
	fs.SetOutput(io.Discard) // after an error, it would print all flags
	err := fs.Parse(args)
	fs.SetOutput(stderr)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprintf(stderr, "Flags of %s:\n", fs.Name())
		fs.PrintDefaults()
		return err
	}
	if err != nil {
		return Usage(fs, "%v", err)
	}
	if narg == 0 && fs.NArg() > 0 {
		return Usage(fs, "%q is not a flag", fs.Arg(0))
	}
	if fs.NArg() != narg {
		return Usage(fs, "%d arguments, not %d", fs.NArg(), narg)
	}
	return nil
}

// Usage reports an error in the command line.
func Usage(fs *flag.FlagSet, format string, args ...any) error {
	fmt.Fprintf(fs.Output(), fs.Name()+": "+format+"; -h lists the flags\n", args...)
	return errUsage
}

// Logger returns a logger that writes everything to w if verbose, otherwise
// warnings and errors.
func Logger(w io.Writer, verbose bool) *slog.Logger {
	if verbose {
		return LoggerAt(w, slog.LevelDebug)
	}
	return LoggerAt(w, slog.LevelWarn)
}

// LoggerAt returns a logger that writes everything from a level on to w.
func LoggerAt(w io.Writer, level slog.Level) *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level}))
}

// Load reads a file in the format of wg-quick(8) and prepares it.
func Load(path string, log *slog.Logger) (wireguard.Config, error) {
	f, err := os.Open(path)
	if err != nil {
		return wireguard.Config{}, err
	}
	defer f.Close()
	cfg, err := wireguard.ParseConfig(f)
	if err != nil {
		return cfg, fmt.Errorf("%s: %w", path, err)
	}
	Prepare(&cfg, path, log)
	return cfg, nil
}

// Prepare sets the logger of a configuration from a file. The commands of
// wg-quick(8) in it are for a network interface, which does not exist here, so
// they are not run; a warning says so.
func Prepare(cfg *wireguard.Config, path string, log *slog.Logger) {
	cfg.Logger = log
	var keys []string
	for _, hook := range []struct {
		key      string
		commands []string
	}{{"PreUp", cfg.PreUp}, {"PostUp", cfg.PostUp}, {"PreDown", cfg.PreDown}, {"PostDown", cfg.PostDown}} {
		if len(hook.commands) > 0 {
			keys = append(keys, hook.key)
		}
	}
	if len(keys) > 0 {
		log.Warn("commands of the configuration are not run", "file", path, "keys", strings.Join(keys, " "))
	}
}
