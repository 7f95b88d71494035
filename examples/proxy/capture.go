package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/wgstack/wireguard"
	"github.com/wgstack/wireguard/capture"
)

// startCapture has the tunnel write the files of -capture and -keylog, which only
// the user of the program can read. Call stop when the device is closed.
func (o *options) startCapture(tunnel *wireguard.Config, log *slog.Logger) (stop func(), err error) {
	var files []*os.File
	stop = func() {
		for _, f := range files {
			if err := f.Close(); err != nil {
				log.Error("file not written", "err", err)
			}
		}
	}
	if o.keyLog != "" {
		f, err := openSecret(o.keyLog, os.O_APPEND)
		if err != nil {
			return nil, fmt.Errorf("-keylog: %w", err)
		}
		files = append(files, f)
		tunnel.KeyLog = f
	}
	if o.capture == "" {
		return stop, nil
	}
	f, err := openSecret(o.capture, os.O_TRUNC)
	if err != nil {
		stop()
		return nil, fmt.Errorf("-capture: %w", err)
	}
	files = append(files, f)
	w := capture.New(f, capture.Options{})
	tunnel.Capture = w
	closeFiles := stop
	return func() {
		if err := w.Close(); err != nil {
			log.Error("capture not written", "err", err)
		} else {
			log.Info("capture written", "file", o.capture, "dropped", w.Dropped())
		}
		closeFiles()
	}, nil
}

// openSecret opens a file that only the user of the program can read, also if it
// exists already and others could.
func openSecret(name string, flag int) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|flag, 0o600)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && info.Mode().IsRegular() {
		err = f.Chmod(0o600)
	}
	if errors.Is(err, errors.ErrUnsupported) {
		err = nil // Windows has no such mode
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
