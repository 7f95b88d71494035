package clients

import (
	"bytes"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"math/big"
	"net/http"
	"os"
	"sync"
	"testing"
	"time"
)

// TestHTTP3Client downloads and uploads, and shows that quic-go has nothing to
// complain of: it logs a warning about a socket whose buffers it cannot set.
func TestHTTP3Client(t *testing.T) {
	var logged lockedBuffer
	log.SetOutput(&logged)
	defer log.SetOutput(os.Stderr)

	near, far := newTunnel(t, "quic.internal. 60 IN A 10.0.0.2")
	serverConfig, clientConfig := certificate(t, "quic.internal")
	body := bytes.Repeat([]byte("0123456789abcdef"), 1<<15) // 512 KiB
	socket, err := far.ListenPacket(t.Context(), "udp", ":443")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() {
		served <- ServeHTTP3(socket, serverConfig, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			n, _ := io.Copy(io.Discard, r.Body)
			w.Header().Set("Received", fmt.Sprint(n))
			w.Write(body)
		}))
	}()

	client, closeAll, err := HTTP3Client(near, clientConfig)
	if err != nil {
		t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(limited(t), "POST", "https://quic.internal/", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil || !bytes.Equal(got, body) || resp.ProtoMajor != 3 {
		t.Errorf("%s, %d bytes, %v; want HTTP/3 and %d", resp.Proto, len(got), err, len(body))
	}
	if n := resp.Header.Get("Received"); n != fmt.Sprint(len(body)) {
		t.Errorf("the server received %s bytes, want %d", n, len(body))
	}
	closeAll()
	far.Close()
	<-served
	if s := logged.String(); s != "" {
		t.Errorf("logged: %s", s)
	}
}

// certificate returns the configurations of a server with a certificate for a
// name, and of a client that trusts it.
func certificate(t *testing.T, name string) (server, client *tls.Config) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		DNSNames:     []string{name},
		NotAfter:     time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(nil, template, template, public, private)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(parsed)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: private}}},
		&tls.Config{RootCAs: roots}
}

// A lockedBuffer is a buffer for concurrent writers.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
