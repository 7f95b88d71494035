package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/wgstack/wireguard/examples/internal/clitest"
)

// insideVariable is the environment variable with a directory for everything, set
// in the process inside the namespaces.
const insideVariable = "BROWSER_TEST_DIR"

// namespaces is the command that runs another where there is no network but
// loopback. When that ends, so do all processes that it has left.
var namespaces = []string{"unshare", "--net", "--pid", "--fork", "--mount-proc", "--kill-child"}

// TestChromium uses the page in headless Chromium, in a network namespace that
// has only loopback.
func TestChromium(t *testing.T) {
	if dir := os.Getenv(insideVariable); dir != "" {
		useChromium(t, dir)
		return
	}
	for _, tool := range []string{"chromium", "unshare", "ip"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip(err)
		}
	}
	if err := inNamespaces("true").Run(); err != nil {
		t.Skip("no namespaces:", err)
	}
	dir := t.TempDir()
	build := exec.Command("go", "build", "-o", filepath.Join(dir, "tab.wasm"), "./tab")
	build.Env = append(os.Environ(), "GOOS=js", "GOARCH=wasm", "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the program for the tab: %v\n%s", err, out)
	}
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	loader, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(root)), "lib", "wasm", "wasm_exec.js"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "wasm_exec.js"), loader, 0o666); err != nil {
		t.Fatal(err)
	}
	cmd := inNamespaces("sh", "-c", `ip link set lo up && exec "$0" "$@"`,
		os.Args[0], "-test.run=^TestChromium$", "-test.v", "-test.timeout=8m")
	cmd.Env = append(os.Environ(), insideVariable+"="+dir)
	if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("--- PASS: TestChromium")) {
		t.Fatalf("in the namespace: %v\n%s", err, out)
	}
}

func inNamespaces(command ...string) *exec.Cmd {
	args := append(slices.Clone(namespaces), command...)
	return exec.Command(args[0], args[1:]...)
}

// driver uses the page in a frame, and reports what it shows for each of the
// URLs.
const driver = `<!doctype html>
<iframe id="frame" src="/"></iframe>
<script>
const element = id => document.getElementById("frame").contentDocument.getElementById(id)
const settled = async () => {
	for (;;) {
		const button = element("fetch"), output = element("output")
		if (output && output.textContent !== "loading" && (!button.disabled || output.textContent.includes("Error")))
			return output.textContent
		await new Promise(resolve => setTimeout(resolve, 20))
	}
}
document.getElementById("frame").onload = async () => {
	const shown = [await settled()]
	for (const url of ["http://10.73.0.1/", "http://10.73.0.1:81/"]) {
		element("url").value = url
		element("fetch").click()
		shown.push(await settled())
	}
	await fetch("/shown", {method: "POST", body: JSON.stringify(shown)})
}
</script>`

// useChromium starts the program and Chromium, and expects what the page shows.
func useChromium(t *testing.T, dir string) {
	match, end := clitest.Start(t, run, `http://(\S+)/`, "-demo", "-dir", dir, "-listen", "127.0.0.1:0")
	defer end()
	shown := make(chan []byte, 1)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /driver", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, driver) })
	mux.HandleFunc("POST /shown", func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		shown <- b
	})
	mux.Handle("/", &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(&url.URL{Scheme: "http", Host: match[1]})
		r.Out.Host = r.In.Host // which the relay compares with the origin
	}})
	srv := httptest.NewServer(mux)
	defer srv.Close()

	log := startChromium(t, dir, srv.URL+"/driver")
	var got []string
	select {
	case b := <-shown:
		if err := json.Unmarshal(b, &got); err != nil {
			t.Fatalf("%v: %s", err, b)
		}
	case <-time.After(5 * time.Minute):
		t.Fatalf("nothing from Chromium:\n%s", log())
	}
	want := []string{"ready", "at 10.73.0.2, through the tunnel.", "connect: Connection refused"} // as js spells it
	for i := range want {
		if i >= len(got) || !strings.Contains(got[i], want[i]) {
			t.Fatalf("the page showed %q, want %q", got, want)
		}
	}
}

// startChromium opens url in Chromium, which writes to dir, and returns a function
// that returns its log. Chromium ends with the namespace.
func startChromium(t *testing.T, dir, url string) (log func() string) {
	t.Helper()
	file, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
		"--no-first-run", "--disable-background-networking", "--disable-extensions", "--disable-component-update",
		"--remote-debugging-port=0", // without it, headless Chromium ends when the page is loaded
		"--user-data-dir="+filepath.Join(dir, "profile"), url)
	cmd.Env = append(os.Environ(), "HOME="+dir)
	cmd.Stdout, cmd.Stderr = file, file
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return func() string {
		b, _ := os.ReadFile(file.Name())
		return string(b)
	}
}
