package gatewayconf

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestParseINI(t *testing.T) {
	for _, test := range []struct{ name, text, want string }{
		{"delimiters", "[a]\nk=1\nl : 2\nm = a=b", "a{k=1 l=2 m=a=b}"},
		{"comments", "# c\n[a] # c\n; c\nk = us#er\nl = pa ; ss", "a{k=us l=pa}"},
		{"quotes", "[a]\nk = \"v\"\nl = 'w x'\nm = \"a # b\"\nn = `a # b`\no = \"\"\"a;\nb\"\"\"", "a{k=v l=w x m=\"a n=a # b o=a;\nb}"},
		{"continued lines", "[a]\nk = 1,\\\n  2\nl = 3", "a{k=1,2 l=3}"},
		{"references", "[a]\nhost = h\nk = %(HOST)s:1\nl = %(none)s", "a{host=h k=h:1 l=%(none)s}"},
		{"byte order mark and CRLF", "\ufeff[a]\r\n  k = v\r\n", "a{k=v}"},
		{"before the first section", "k = v\n[a]\n[a]", "{k=v}a{}a{}"},
	} {
		sections, err := parseINI("file", test.text)
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		var got strings.Builder
		for i, s := range sections {
			if i == 0 && len(s.entries) == 0 {
				continue
			}
			var entries []string
			for _, e := range s.entries {
				entries = append(entries, e.key+"="+e.value)
			}
			fmt.Fprintf(&got, "%s{%s}", s.name, strings.Join(entries, " "))
		}
		if got.String() != test.want {
			t.Errorf("%s: %s, want %s", test.name, &got, test.want)
		}
	}
}

func TestParseINIErrors(t *testing.T) {
	for text, want := range map[string]string{
		"[a]\nsecret":     `file:2: [a] want "key = value"`,
		"[a":              `file:1: want "[Section]"`,
		"[a]\nk=\\\n`x\n": "file:2: [a] k: a quotation without an end",
	} {
		if _, err := parseINI("file", text); err == nil || err.Error() != want {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}

func TestExpand(t *testing.T) {
	t.Setenv("GATEWAY_TEST", "value")
	for text, want := range map[string]string{"$GATEWAY_TEST": "value", "$$x": "$x", "x$GATEWAY_TEST": "x$GATEWAY_TEST", "": ""} {
		if got, err := expand(text); got != want || err != nil {
			t.Errorf("%q: %q, %v; want %q", text, got, err, want)
		}
	}
	if got, err := expand("$GATEWAY_TEST_UNSET"); err == nil || !strings.Contains(err.Error(), "GATEWAY_TEST_UNSET is not set") {
		t.Errorf("a variable that is not set: %q, %v", got, err)
	}
}

func FuzzParseINI(f *testing.F) {
	f.Add("[a]\nk = \"v\" ; c\nl : `x`\\\n%(k)s")
	f.Fuzz(func(t *testing.T, text string) {
		_, err := parseINI("file", text)
		var e *Error
		if err != nil && (!errors.As(err, &e) || e.Line < 1) {
			t.Errorf("%v", err)
		}
	})
}
