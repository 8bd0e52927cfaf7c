package httpguard

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"

	"cloakroom/infra/httpguard/guardtest"
)

// lex feeds the stream to a lexer in pieces of the given size and returns what
// is delivered, the refusal, and how the end of the stream is taken.
func lex(stream []byte, size int) (delivered []byte, refusal *Refusal, end error) {
	l := lexer{maxHead: DefaultMaxHead}
	for len(stream) > 0 {
		l.resume()
		piece := stream[:min(size, len(stream))]
		n, r := l.feed(piece)
		delivered = append(delivered, piece[:n]...)
		if r != nil {
			return delivered, r, r
		}
		stream = stream[n:]
	}
	return delivered, nil, l.eof()
}

// splits are the sizes of the pieces that a stream may arrive in.
func splits(stream string) map[string]int {
	return map[string]int{"whole": len(stream), "halves": (len(stream) + 1) / 2, "thirteen": 13, "bytewise": 1}
}

func TestLexerRefuses(t *testing.T) {
	for _, c := range guardtest.Cases() {
		stream := c.Ahead + c.Raw
		for how, size := range splits(stream) {
			delivered, refusal, _ := lex([]byte(stream), size)
			switch {
			case refusal == nil:
				t.Errorf("%s, %s: passed", c.Name, how)
			case refusal.Reason != c.Reason || refusal.Status != c.Status:
				t.Errorf("%s, %s: refused with %d, %q, want %d, %q", c.Name, how, refusal.Status, refusal.Reason, c.Status, c.Reason)
			case !bytes.HasPrefix(delivered, []byte(c.Ahead)):
				t.Errorf("%s, %s: the requests ahead were not delivered", c.Name, how)
			case how == "whole" && len(delivered) > len(c.Ahead):
				t.Errorf("%s: delivered %q of the broken message", c.Name, delivered[len(c.Ahead):])
			case bytes.Contains(delivered, []byte(guardtest.Poison)):
				t.Errorf("%s, %s: delivered what stands behind the broken message", c.Name, how)
			}
		}
	}
}

func TestLexerPasses(t *testing.T) {
	for _, c := range guardtest.Controls() {
		for how, size := range splits(c.Raw) {
			delivered, refusal, end := lex([]byte(c.Raw), size)
			switch {
			case refusal != nil:
				t.Errorf("%s, %s: %v", c.Name, how, refusal)
			case string(delivered) != c.Raw:
				t.Errorf("%s, %s: not delivered as it came", c.Name, how)
			case end != io.EOF:
				t.Errorf("%s, %s: end of the stream is %v, want EOF", c.Name, how, end)
			}
		}
	}
}

// Every reason is reached by a case of its own, and the corpus is as wide as
// it claims to be.
func TestCasesReachEveryReason(t *testing.T) {
	seen := make(map[string]bool)
	names := make(map[string]bool)
	for _, c := range guardtest.Cases() {
		seen[c.Reason] = true
		if names[c.Name] {
			t.Errorf("two cases are named %q", c.Name)
		}
		names[c.Name] = true
	}
	all := []*Refusal{
		errHeadTooLarge, errEmptyLines, errMethod, errConnect, errTarget, errTargetByte, errVersion, errLineEnd,
		errName, errFold, errValue, errHostMissing, errHostTwice, errHost, errLengthTwice, errLength, errCodingTwice,
		errCoding, errCoding10, errBothFrames, errUpgradeBody, errChunkSize, errChunkExt, errChunkEnd, errTrailerField,
		errTrailerSize,
	}
	for _, r := range all {
		if !seen[r.Reason] {
			t.Errorf("no case for %q", r.Reason)
		}
	}
}

// The end of the stream is clean between messages and nowhere else.
func TestLexerEndOfStream(t *testing.T) {
	for _, c := range guardtest.Controls() {
		if len(c.Want) > 1 || len(c.Raw) > 1<<10 {
			continue
		}
		for cut := range len(c.Raw) {
			_, refusal, end := lex([]byte(c.Raw[:cut]), cut+1)
			want := io.ErrUnexpectedEOF
			if strings.TrimLeft(c.Raw[:cut], "\r\n") == "" {
				want = io.EOF // nothing of the message but the empty line before it
			}
			if refusal != nil || end != want {
				t.Errorf("%s, cut after %d bytes: %v, want %v", c.Name, cut, end, want)
			}
		}
	}
}

// The sound requests before a fault are delivered to their last byte and no
// further, wherever the stream is cut.
func TestLexerDeliversWhatStandsAhead(t *testing.T) {
	for _, c := range guardtest.Cases() {
		if c.Served == 0 || c.InBody {
			continue
		}
		stream := []byte(c.Ahead + c.Raw)
		for cut := 1; cut <= len(c.Ahead); cut++ {
			l := lexer{maxHead: DefaultMaxHead}
			got := 0
			for _, piece := range [][]byte{stream[:cut], stream[cut:]} {
				for len(piece) > 0 {
					l.resume()
					n, r := l.feed(piece)
					got += n
					if r != nil {
						break
					}
					piece = piece[n:]
				}
			}
			if got != len(c.Ahead) {
				t.Errorf("%s, cut after %d bytes: delivered %d bytes, want %d", c.Name, cut, got, len(c.Ahead))
			}
		}
	}
}

func addSeeds(f *testing.F) {
	for _, c := range guardtest.Cases() {
		if len(c.Raw) < 4<<10 {
			f.Add([]byte(c.Ahead + c.Raw))
		}
	}
	for _, c := range guardtest.Controls() {
		if len(c.Raw) < 4<<10 {
			f.Add([]byte(c.Raw))
		}
	}
}

// The verdict does not depend on how the stream was cut, and nothing is
// delivered but a beginning of the stream.
func FuzzLexerSplit(f *testing.F) {
	addSeeds(f)
	f.Fuzz(func(t *testing.T, stream []byte) {
		whole, refusal, end := lex(stream, len(stream)+1)
		if !bytes.HasPrefix(stream, whole) {
			t.Fatalf("delivered %q", whole)
		}
		for _, size := range []int{1, 2, 13, len(stream)/2 + 1} {
			pieces, refusal2, end2 := lex(stream, size)
			if refusal != refusal2 || end != end2 {
				t.Fatalf("whole: %v, %v; in pieces of %d: %v, %v", refusal, end, size, refusal2, end2)
			}
			if !bytes.HasPrefix(stream, pieces) || len(pieces) < len(whole) {
				t.Fatalf("whole: delivered %q; in pieces of %d: %q", whole, size, pieces)
			}
		}
	})
}

// boundaries returns where in the stream the lexer sees each message end.
func boundaries(stream []byte) []int {
	var ends []int
	l := lexer{maxHead: DefaultMaxHead}
	for i := range stream {
		l.resume()
		inside := !l.between()
		if _, r := l.feed(stream[i : i+1]); r != nil {
			break
		}
		if inside && l.between() {
			ends = append(ends, i+1)
		}
	}
	return ends
}

// What the lexer delivers is framed alike by net/http, where that takes it at
// all: every message ends at the same byte.
func FuzzLexerFraming(f *testing.F) {
	addSeeds(f)
	f.Fuzz(func(t *testing.T, stream []byte) {
		ends := boundaries(stream)
		if len(ends) == 0 {
			return
		}
		stream = stream[:ends[len(ends)-1]]
		raw := bytes.NewReader(stream)
		r := bufio.NewReader(raw)
		for _, end := range ends {
			req, err := http.ReadRequest(r)
			if err != nil {
				if strings.Contains(err.Error(), "EOF") {
					t.Fatalf("net/http does not see the message that ends at %d in %q", end, stream)
				}
				return // it is stricter in other matters, such as targets
			}
			if _, err := io.Copy(io.Discard, req.Body); err != nil {
				t.Fatalf("net/http cannot read the body that ends at %d in %q: %v", end, stream, err)
			}
			if got := len(stream) - raw.Len() - r.Buffered(); got != end {
				t.Fatalf("net/http sees a message end at %d, the lexer at %d in %q", got, end, stream)
			}
		}
	})
}

func BenchmarkLexer(b *testing.B) {
	head := []byte(guardtest.Browser)
	l := lexer{maxHead: DefaultMaxHead}
	b.SetBytes(int64(len(head)))
	b.ReportAllocs()
	for b.Loop() {
		if n, r := l.feed(head); n != len(head) || r != nil {
			b.Fatal(n, r)
		}
	}
}
