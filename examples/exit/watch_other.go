//go:build !linux

package main

import "context"

// watchAddrs returns at once: changes of addresses are not reported here.
func watchAddrs(ctx context.Context, changed func()) {}
