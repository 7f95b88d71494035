package gatewayconf

import "testing"

func TestSuggest(t *testing.T) {
	keys := []string{"", "privatekey", "address", "mtu"}
	for word, want := range map[string]string{
		"Adress":             "; did you mean address?",
		"PrivatKey":          "; did you mean privatekey?",
		"Address 10.0.0.1/8": "; did you mean address?", // the = is missing
		"PostUp":             "",
		"Table":              "",
		"LogLevel":           "",
	} {
		if got := suggest(word, keys); got != want {
			t.Errorf("%s: %q, want %q", word, got, want)
		}
	}
}

func TestDistance(t *testing.T) {
	for _, test := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"", "abc", 3}, {"abc", "", 3}, {"kitten", "sitting", 3}, {"adress", "address", 1}, {"ab", "ba", 2}} {
		if got := distance(test.a, test.b); got != test.want {
			t.Errorf("%q to %q: %d, want %d", test.a, test.b, got, test.want)
		}
	}
}
