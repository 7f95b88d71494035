package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/coder/websocket"

	"github.com/wgstack/wireguard"
	"github.com/wgstack/wireguard/examples/internal/clitest"
)

// screenshots is a variable with a folder for pictures of the page, for people to
// look at.
const screenshots = "STATUS_SCREENSHOTS"

// TestStatusPage clicks through the status page with a browser, in a network
// namespace in which there is nothing else. It fails if the page is wider than
// the screen of a phone, or has an error in its script.
func TestStatusPage(t *testing.T) {
	if !clitest.InNamespace(t) {
		return
	}
	near := wireguard.NewPrivateKey()
	a, b := newFarPeer(t, "a", near.PublicKey()), newFarPeer(t, "b", near.PublicKey())
	lines := []string{"[Interface]", "PrivateKey = " + near.Base64(), "Address = " + nearAddr4.String(), "CheckAlive = " + farAddr4.String()}
	lines = append(append(lines, a.section()...), b.section()...)
	lines = append(lines, "[Failover]", "AllowedIPs = 10.0.0.0/8",
		"Peer = "+a.config.PrivateKey.PublicKey().String(), "Peer = "+b.config.PrivateKey.PublicKey().String(),
		"[TCPClientTunnel]", "BindAddress = 127.0.0.1:0", "Target = "+farAddr4.String()+":7")
	info := clitest.FreeAddress(t)
	match, end := clitest.Start(t, run, `^TCP for \S+ on (\S+)$`, "-c", clitest.File(t, lines...), "-info", info)
	page := clitest.StartBrowser(t)
	page.Open("http://" + info + "/")
	page.Eval("window.addEventListener('error', e => { window.failed = e.message })")
	const text = "document.body.innerText"
	page.Await(text + ".includes('Throughput') && document.querySelectorAll('#peers tbody tr').length === 2")
	page.Await("document.querySelector('#state').textContent === 'running'")
	page.Await("document.querySelectorAll('#choices tbody tr').length === 2 && document.querySelector('#choices').innerText.includes('in use')")

	c := awaitName(t, match[1], "a")
	defer c.Close()
	page.Await(fmt.Sprintf("document.querySelector('#connections').innerText.includes('%s:7')", farAddr4))
	page.Await("document.querySelector('#events').innerText.includes('session up')")
	page.Await("document.querySelector('#line-received').getAttribute('d').length > 10")

	for _, id := range []string{"peers", "events", "connections"} {
		details := fmt.Sprintf("document.querySelector('details:has(#%s)').open", id)
		summary := fmt.Sprintf("details:has(#%s) > summary", id)
		page.Click(summary)
		page.Await("!" + details)
		page.Click(summary)
		page.Await(details)
	}
	for _, view := range []struct {
		name          string
		width, height int
		dark          bool
	}{{"desktop-light", 1280, 900, false}, {"desktop-dark", 1280, 900, true}, {"phone-light", 390, 844, false}, {"phone-dark", 390, 844, true}} {
		page.Show(view.width, view.height, view.dark)
		page.Await(fmt.Sprintf("matchMedia('(prefers-color-scheme: dark)').matches === %v", view.dark))
		wide := page.Eval(fmt.Sprintf("[...document.querySelectorAll('*')].filter(e => e.getBoundingClientRect().right > %d).map(e => e.tagName + ' ' + e.innerText).join()", view.width+1))
		if wide != "" {
			t.Errorf("%s: wider than the screen: %s", view.name, wide)
		}
		background := page.Eval("getComputedStyle(document.body).backgroundColor")
		if want := map[bool]string{false: "rgb(244, 245, 247)", true: "rgb(20, 23, 26)"}[view.dark]; background != want {
			t.Errorf("%s: the background is %s, want %s", view.name, background, want)
		}
		if dir := os.Getenv(screenshots); dir != "" {
			page.Screenshot(filepath.Join(dir, view.name+".png"))
		}
	}
	if failed := page.Eval("String(window.failed)"); failed != "undefined" {
		t.Errorf("the script fails: %s", failed)
	}
	end()
	page.Await("document.querySelector('#state').textContent.startsWith('no answer')")
}

// TestBrowserThroughProxy loads a page of many pictures through the gateway, in a
// network namespace in which there is no other way to it, a file of which the end
// is missing, and the echo of a WebSocket.
func TestBrowserThroughProxy(t *testing.T) {
	if !clitest.InNamespace(t) {
		return
	}
	dev, tunnel := startFar(t)
	l, err := dev.Listen(t.Context(), "tcp", ":80")
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		for i := range 100 {
			fmt.Fprintf(w, "<img src='/picture/%d.svg'>", i)
		}
	})
	mux.HandleFunc("/picture/", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "image/svg+xml")
		io.WriteString(w, `<svg xmlns="http://www.w3.org/2000/svg" width="8" height="8"><rect width="8" height="8"/></svg>`)
	})
	mux.HandleFunc("/cut", func(w http.ResponseWriter, _ *http.Request) {
		c, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\nhalf of it")
		c.(interface{ SetLinger(int) error }).SetLinger(0)
		c.Close()
	})
	mux.HandleFunc("/socket", func(w http.ResponseWriter, r *http.Request) {
		socket, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer socket.CloseNow()
		for {
			kind, message, err := socket.Read(r.Context())
			if err != nil || socket.Write(r.Context(), kind, append([]byte("echo: "), message...)) != nil {
				return
			}
		}
	})
	server := http.Server{Handler: mux}
	go server.Serve(l)
	defer server.Close()
	const useSocket = `new Promise((resolve, reject) => {
		const socket = new WebSocket('ws://' + location.host + '/socket'), messages = ['one', 'two']
		const next = () => socket.send(messages[0])
		socket.onopen = next
		socket.onerror = () => reject(new Error('no WebSocket'))
		socket.onmessage = e => {
			if (e.data !== 'echo: ' + messages.shift()) reject(new Error(e.data))
			messages.length ? next() : socket.close(1000)
		}
		socket.onclose = e => resolve('closed with ' + e.code)
	})`

	certFile, keyFile, _ := newCertificate(t)
	for scheme, listener := range map[string][]string{"socks5": {"[Socks5]"}, "http": {"[Socks5]"}, "https": {"[http]", "CertFile = " + certFile, "KeyFile = " + keyFile}} {
		match := startSections(t, tunnel, `HTTP on (\S+)$`, append(listener, "BindAddress = 127.0.0.1:0")...)
		browser := clitest.StartBrowser(t, "--proxy-server="+scheme+"://"+match[1], "--ignore-certificate-errors")
		browser.Open("http://" + farAddr4.String() + "/")
		browser.Await("document.images.length === 100 && [...document.images].every(i => i.complete && i.naturalWidth === 8)")
		if got := browser.Eval("fetch('/cut').then(r => r.text()).then(t => 'complete: ' + t, e => 'failed')"); got != "failed" {
			t.Errorf("by %s, a file that was cut off is %q", scheme, got)
		}
		if got := browser.Eval(useSocket); got != "closed with 1000" {
			t.Errorf("by %s, the WebSocket is %s", scheme, got)
		}
	}
	if c, err := net.Dial("tcp", farAddr4.String()+":80"); err == nil {
		c.Close()
		t.Error("there is another way to the page")
	}
}
