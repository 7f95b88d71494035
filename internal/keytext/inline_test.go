package keytext

import (
	"testing"

	"github.com/wgstack/wireguard/internal/inlinetest"
)

// TestInlining names the functions that the conversions call for each digit.
func TestInlining(t *testing.T) { inlinetest.Check(t, "maskWithin", "hexDigit") }
