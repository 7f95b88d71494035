package main

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"strconv"
)

// checksumHeader carries the SHA-256 of what /bytes/N sends, in hexadecimal.
const checksumHeader = "X-Checksum-Sha256"

// demoSite is the web site of the demonstration:
//
//	/           a page
//	/bytes/N    N bytes, always the same, with their checksum in the header
//	/checksum   the checksum of what is posted
//
// That of /bytes is computed before the first byte is sent, which takes about a
// second for each gigabyte.
func demoSite() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		fmt.Fprintf(w, "Hello through the tunnel.\n\nYou are %s.\nThis is %s.\n", r.RemoteAddr, r.Host)
	})
	mux.HandleFunc("GET /bytes/{n}", func(w http.ResponseWriter, r *http.Request) {
		n, err := strconv.ParseInt(r.PathValue("n"), 10, 64)
		if err != nil || n < 0 {
			http.Error(w, "not a number of bytes", http.StatusBadRequest)
			return
		}
		h := sha256.New()
		if err := writeBytes(contextWriter{h, r}, n); err != nil {
			return
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
		w.Header().Set(checksumHeader, fmt.Sprintf("%x", h.Sum(nil)))
		if r.Method != http.MethodHead {
			writeBytes(w, n)
		}
	})
	mux.HandleFunc("POST /checksum", func(w http.ResponseWriter, r *http.Request) {
		h := sha256.New()
		if _, err := io.Copy(h, r.Body); err == nil {
			fmt.Fprintf(w, "%x\n", h.Sum(nil))
		}
	})
	return mux
}

// contextWriter fails once the client of a request has disconnected.
type contextWriter struct {
	io.Writer
	request *http.Request
}

func (w contextWriter) Write(b []byte) (int, error) {
	if err := w.request.Context().Err(); err != nil {
		return 0, err
	}
	return w.Writer.Write(b)
}

// writeBytes writes the first n bytes of the AES-128-CTR key stream of the zero
// key and the zero counter: they are computed quickly, are the same everywhere,
// and never repeat, so that a checksum detects data that is lost, duplicated or
// reordered.
func writeBytes(w io.Writer, n int64) error {
	block, err := aes.NewCipher(make([]byte, 16))
	if err != nil {
		return err
	}
	stream := cipher.NewCTR(block, make([]byte, aes.BlockSize))
	buf := make([]byte, 256<<10)
	for n > 0 {
		b := buf[:min(n, int64(len(buf)))]
		clear(b)
		stream.XORKeyStream(b, b)
		if _, err := w.Write(b); err != nil {
			return err
		}
		n -= int64(len(b))
	}
	return nil
}
