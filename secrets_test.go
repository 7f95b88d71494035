package wireguard

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	goparser "go/parser"
	"go/token"
	"io"
	"io/fs"
	"log"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/wgstack/wireguard/internal/fakepeer"
)

func TestP98SecretsAreErased(t *testing.T) {
	bare := func(what string, i *initiator) {
		t.Helper()
		if i.state != (symmetricState{}) || i.ephemeral != nil {
			t.Errorf("%s: the handshake keeps its secrets", what)
		}
	}
	edit := func(cfg *Config) { cfg.Peers[0].PresharedKey = NewPresharedKey() }
	withTestbed(t, edit, func(b *testbed) {
		p := b.far.peer()
		b.far.PSK = p.psk
		pending := func() *initiator {
			synctest.Wait()
			p.mu.Lock()
			defer p.mu.Unlock()
			return p.pendingHandshake
		}
		b.outputTo(b.far, "x")
		b.far.wantMessage("packet", fakepeer.Initiation)
		first := pending()
		hs := b.far.wantInitiation("retry")
		bare("replaced", first)
		second := pending()
		s := b.far.respondTo(hs)
		b.far.wantData("completion", s, "x")
		bare("completed", second)
		time.Sleep(rekeyTimeout)
		b.far.startDeviceHandshake("on demand")
		third := pending()
		p.mu.Lock()
		something := p.staticSecret != (staticSecret{}) && p.psk != (PresharedKey{}) && third != nil && p.keys.current != nil
		p.mu.Unlock()
		if !something {
			t.Fatal("nothing to erase")
		}
		if err := b.dev.RemovePeer(b.far.Public); err != nil {
			t.Fatal(err)
		}
		bare("removed", third)
		if p.staticSecret != (staticSecret{}) || p.staticSecretFor != nil || p.psk != (PresharedKey{}) || p.keys != (keyring{}) || p.pendingHandshake != nil {
			t.Error("a removed peer keeps its secrets")
		}
	})
	withTestbed(t, nil, func(b *testbed) {
		p := b.far.peer()
		b.far.connectFromDevice()
		if err := b.dev.SetPrivateKey(PrivateKey{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if p.staticSecret != (staticSecret{}) || p.staticSecretFor != nil {
			t.Error("the shared secret outlives the private key")
		}
	})

	withTestbed(t, nil, func(b *testbed) {
		for _, change := range []func() error{
			func() error { return b.dev.SetPrivateKey(NewPrivateKey()) },
			b.dev.Close,
		} {
			id := b.dev.identity.Load()
			if id.private.IsZero() {
				t.Fatal("nothing to erase")
			}
			public := b.dev.Stats().PublicKey
			if err := change(); err != nil {
				t.Fatal(err)
			}
			if !id.private.IsZero() {
				t.Error("a former private key remains")
			}
			if b.dev.closed && (b.dev.Stats().PublicKey != public || b.dev.identity.Load().key != nil) {
				t.Error("a closed device has no public key, or has a private one")
			}
		}
	})

	k := transportKeys{send: [32]byte{1}, receive: [32]byte{2}}
	k.erase()
	r := responder{state: wireguardState}
	r.erase()
	if k != (transportKeys{}) || r.state != (symmetricState{}) {
		t.Error("erase leaves something")
	}
}

func TestP98KeysAreDroppedOnErasure(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		s := b.far.connectFromDevice()
		b.far.sendKeepalive(s)
		p := b.far.peer()
		time.Sleep(eraseAfterTime + time.Second)
		b.wantIndices("erased", 0)
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.keys != (keyring{}) || p.pendingHandshake != nil {
			t.Error("keys outlive their erasure")
		}
	})
}

// parseSources parses the product files of the module's packages.
func parseSources(t *testing.T) map[string]*ast.File {
	t.Helper()
	files := make(map[string]*ast.File)
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		switch name := d.Name(); {
		case d.IsDir() && (name == "examples" || name == "bench" || name == "testdata" || name == "fakepeer" || name == "simnet" || name != "." && name[0] == '.'):
			return filepath.SkipDir
		case d.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go"):
			return nil
		}
		files[path], err = goparser.ParseFile(token.NewFileSet(), path, nil, goparser.SkipObjectResolution)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// Timing cannot be tested reliably, so the test inspects the source: secrets
// must be compared with crypto/subtle.
func TestP99SecretsAreComparedInConstantTime(t *testing.T) {
	calls := func(body ast.Node, pkg, name string) (found bool) {
		ast.Inspect(body, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok && s.Sel.Name == name {
				x, ok := s.X.(*ast.Ident)
				found = found || ok && x.Name == pkg
			}
			return true
		})
		return found
	}
	comparing := map[string]bool{
		"validMAC1": false, "validMAC2": false, // MACs
		"isZeroKey": false, "PrivateKey.equal": false,
	}
	for path, file := range parseSources(t) {
		if strings.Contains(path, string(filepath.Separator)) {
			continue
		}
		for _, decl := range file.Decls {
			f, ok := decl.(*ast.FuncDecl)
			if !ok {
				continue
			}
			name := f.Name.Name
			if f.Recv != nil {
				recv := f.Recv.List[0].Type
				if star, ok := recv.(*ast.StarExpr); ok {
					recv = star.X
				}
				if id, ok := recv.(*ast.Ident); ok && strings.HasSuffix(id.Name, "Key") {
					name = id.Name + "." + name
				}
			}
			if calls(f, "bytes", "Equal") || calls(f, "slices", "Equal") && path != "parse.go" && path != "config.go" && path != "uapi.go" {
				t.Errorf("%s: %s compares bytes in variable time", path, name)
			}
			if calls(f, "bytes", "Compare") && path != "tai64n.go" && path != "uapi.go" {
				t.Errorf("%s: %s compares bytes in variable time", path, name)
			}
			if _, ok := comparing[name]; ok {
				if !calls(f, "subtle", "ConstantTimeCompare") && !calls(f, "subtle", "ConstantTimeEq") {
					t.Errorf("%s: %s does not compare in constant time", path, name)
				}
				comparing[name] = true
			}
		}
	}
	for name, seen := range comparing {
		if !seen {
			t.Errorf("no %s", name)
		}
	}
}

func TestP100OnlyTheSystemsRandomSource(t *testing.T) {
	allowed := map[string]bool{
		"timers.go":              true, // jitter
		"netstack/dnsmessage.go": true, // query IDs inside the tunnel
	}
	for path, file := range parseSources(t) {
		for _, i := range file.Imports {
			if strings.Contains(i.Path.Value, "math/rand") && !allowed[filepath.ToSlash(path)] {
				t.Errorf("%s imports %s", path, i.Path.Value)
			}
		}
	}
}

func TestP100RandomFailureAborts(t *testing.T) {
	const use = "WIREGUARD_TEST_RANDOM"
	uses := map[string]func(){
		"private key":   func() { NewPrivateKey() },
		"preshared key": func() { NewPresharedKey() },
		"index":         func() { new(indexTable).reserveIndex(nil) },
		"cookie secret": func() { new(cookieSecret).cookieFor(time.Now(), farOuter) },
	}
	if f := uses[os.Getenv(use)]; f != nil {
		rand.Reader = iotest.ErrReader(errors.New("no entropy today"))
		f()
		os.Exit(0)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Skip(err)
	}
	for name := range uses {
		cmd := exec.Command(exe, "-test.run=^TestP100RandomFailureAborts$")
		cmd.Env = append(os.Environ(), use+"="+name)
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Skip(err)
		}
		if err == nil || !bytes.Contains(out, []byte("no entropy today")) {
			t.Errorf("%s: went on without randomness: %v\n%s", name, err, out)
		}
	}
}

func TestP100NoKeyIsLogged(t *testing.T) {
	var log syncBuffer
	psk := NewPresharedKey()
	var private PrivateKey
	edit := func(cfg *Config) {
		cfg.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug - 10}))
		cfg.Peers[0].PresharedKey = psk
		private = cfg.PrivateKey
	}
	withTestbed(t, edit, func(b *testbed) {
		b.far.PSK = psk
		s := b.far.connectFromDevice()
		b.far.sendData(s, "x")
		other := b.far.connectToDevice()
		b.dev.lookupHost = func(context.Context, string) ([]netip.Addr, error) { return nil, errors.New("no such host") }
		b.setPeer(PeerConfig{PublicKey: NewPrivateKey().PublicKey(), Endpoint: "nowhere.example:1", PersistentKeepalive: time.Second})
		time.Sleep(10 * time.Minute)
		b.dev.log.Info("all of it", "config", Config{PrivateKey: private, Peers: []PeerConfig{{PresharedKey: psk}}}, "key", private, "psk", psk)
		synctest.Wait()
		if log.Len() == 0 {
			t.Fatal("nothing was logged")
		}
		for name, key := range map[string][32]byte{
			"private": private, "preshared": psk, "ss": b.far.peer().staticSecret,
			"send": s.RecvKey, "receive": s.SendKey, "send again": other.RecvKey, "receive again": other.SendKey,
		} {
			for _, form := range []string{
				base64.StdEncoding.EncodeToString(key[:])[:20], hex.EncodeToString(key[:])[:20], string(key[:8]),
				strings.Trim(fmt.Sprint(key[:8]), "[]"),
			} {
				if strings.Contains(log.String(), form) {
					t.Errorf("the %s key was logged", name)
				}
			}
		}
	})
}

// secretText is the key that the tests of printing look for.
const secretText = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk="

// wantNoSecret looks for the beginning of the key secretText, in each form that a
// printer may give it.
func wantNoSecret(t *testing.T, what, printed string) {
	t.Helper()
	for _, form := range []string{
		secretText[:8], "c809f3e5", "C809F3E5", "c8 09 f3", "0xc8, 0x9, 0xf3", "200 9 243", "200,9,243",
		"11001000 1001 11110011", "310 11 363", "U+00C8", "\xc8\t\xf3", "È \t ó", `È' '\t' 'ó`,
	} {
		if strings.Contains(printed, form) {
			t.Errorf("%s shows the key: %.300q", what, printed)
		}
	}
}

// secretValues are values of the package with secrets in them, and values of a
// program that contain such. Those with keys of their own are encoded as they are.
func secretValues(t *testing.T) (redacted, encoded map[string]any) {
	private := mustPrivateKey(t, secretText)
	psk := PresharedKey(private)
	cfg := Config{PrivateKey: private, Peers: []PeerConfig{{PublicKey: private.PublicKey(), PresharedKey: psk}}}
	type settings struct {
		Name    string
		Private PrivateKey
		Peers   []PeerConfig
	}
	type network struct {
		Name  string
		Peers []PeerConfig
	}
	type embedding struct {
		PeerConfig
		Rest int
	}
	redacted = map[string]any{
		"Config":             cfg,
		"to Config":          &cfg,
		"PeerConfig":         cfg.Peers[0],
		"to PeerConfig":      &cfg.Peers[0],
		"slice of peers":     cfg.Peers,
		"map of Configs":     map[string]Config{"wg0": cfg},
		"struct":             network{"a", cfg.Peers},
		"to struct":          &network{"a", cfg.Peers},
		"struct that embeds": embedding{cfg.Peers[0], 1},
	}
	encoded = map[string]any{
		"private key":      private,
		"to private key":   &private,
		"preshared key":    psk,
		"to preshared key": &psk,
		"slice of keys":    []PrivateKey{private},
		"map of keys":      map[string]PresharedKey{"k": psk},
		"map by keys":      map[PresharedKey]int{psk: 1},
		"struct with keys": settings{"a", private, cfg.Peers},
		"any":              []any{private, psk, cfg},
	}
	return redacted, encoded
}

// No way of printing a secret key may show any part of it.
//
// Covers P100.
func TestP100SecretsAreNotPrinted(t *testing.T) {
	redacted, encoded := secretValues(t)
	for name, v := range redacted {
		wantNotPrinted(t, name, v)
		wantNotEncoded(t, name, v)
	}
	for name, v := range encoded {
		wantNotPrinted(t, name, v)
		if _, ok := v.(slog.LogValuer); ok {
			wantNotLogged(t, name, v, slog.NewJSONHandler)
		}
	}
}

// wantNotPrinted prints v in every way but as JSON.
func wantNotPrinted(t *testing.T, name string, v any) {
	t.Helper()
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "% x", "%#x", "%d", "%b", "%o", "%c", "%U", "%t", "%80v"} {
		fmt.Fprintf(&out, verb+"\n", v)
	}
	fmt.Fprintln(&out, v)
	fmt.Fprintln(&out, fmt.Errorf("configuration %v: %w", v, errors.New("bad")))
	wantNoSecret(t, name+" with fmt", out.String())
	if !strings.Contains(out.String(), "(private key)") && !strings.Contains(out.String(), "(preshared key)") {
		t.Errorf("%s with fmt: no placeholder", name)
	}
	wantNotLogged(t, name, v, slog.NewTextHandler)
	out.Reset()
	log.New(&out, "", 0).Print(v)
	wantNoSecret(t, name+" with log", out.String())
}

// wantNotEncoded prints v as JSON.
func wantNotEncoded(t *testing.T, name string, v any) {
	t.Helper()
	wantNotLogged(t, name, v, slog.NewJSONHandler)
	text, err := json.Marshal(v)
	wantNoSecret(t, name+" with json", fmt.Sprint(string(text), err))
}

// wantNotLogged has a handler of slog print v.
func wantNotLogged[H slog.Handler](t *testing.T, name string, v any, newHandler func(io.Writer, *slog.HandlerOptions) H) {
	t.Helper()
	var out bytes.Buffer
	slog.New(newHandler(&out, nil)).With("with", v).WithGroup("g").Info("m", "v", v, slog.Group("in", "v", v))
	wantNoSecret(t, name+" with slog", out.String())
}

// A device has secrets in fields that fmt would print.
func TestP100DeviceIsNotPrinted(t *testing.T) {
	edit := func(cfg *Config) {
		cfg.PrivateKey = mustPrivateKey(t, secretText)
		cfg.Peers[0].PresharedKey = PresharedKey(cfg.PrivateKey)
	}
	withTestbed(t, edit, func(b *testbed) {
		b.dev.cookies.cookieFor(time.Now(), farOuter)
		copy(b.dev.cookies.secret[:], b.dev.identity.Load().private[:])
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
			if got, want := fmt.Sprintf(verb, b.dev), "(device)"; got != want {
				t.Errorf("%s prints %.100q, want %q", verb, got, want)
			}
		}
	})
}

// A panic prints its value, and the stack traces have arguments of functions.
func TestP100SecretsAreNotInPanics(t *testing.T) {
	const use = "WIREGUARD_TEST_PANIC"
	values, keys := secretValues(t)
	maps.Copy(values, keys)
	values["error"] = fmt.Errorf("the configuration %+v is bad", values["Config"])
	if v, ok := values[os.Getenv(use)]; ok {
		panic(v)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Skip(err)
	}
	for _, name := range []string{"private key", "to private key", "preshared key", "Config", "to PeerConfig", "struct", "error"} {
		cmd := exec.Command(exe, "-test.run=^TestP100SecretsAreNotInPanics$")
		cmd.Env = append(os.Environ(), use+"="+name)
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Skip(err)
		}
		if err == nil || !bytes.Contains(out, []byte("panic: ")) {
			t.Errorf("%s: no panic: %v\n%s", name, err, out)
		}
		wantNoSecret(t, name+" in a panic", string(out))
	}
}

type syncBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.String()
}
