package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"cloakroom/infra/testreport"
)

const (
	largeBody = 2 << 30
	// mostGrowth is what four such bodies may add to the process's memory, in bytes:
	// buffers, and what the garbage collector leaves lying about.
	mostGrowth = 24 << 20
)

// TestLargeBodiesPassInConstantMemory sends 2 GiB each way, of known length and
// in chunks, through the program as it is run, and asks the system what it has
// taken for that at the most.
func TestLargeBodiesPassInConstantMemory(t *testing.T) {
	s := surround(t)
	s.upstream = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method == http.MethodPost:
			n, err := discard(r.Body)
			fmt.Fprintf(w, `"%d bytes, %v"`, n, err)
		case r.URL.Path == "/fixed":
			w.Header().Set("Content-Length", strconv.Itoa(largeBody))
			fallthrough
		default:
			_, _ = io.Copy(w, &nothing{left: largeBody})
		}
	}))
	t.Cleanup(s.upstream.Close)
	p, url := s.broker(t)
	v := newVisitor(t)
	v.http.Timeout = 4 * time.Minute
	v.do("POST", url+"/auth/register", map[string]string{"email": somebody, "password": herWords}, nil, http.StatusOK)
	before, ok := memory(p, "VmRSS")
	if !ok {
		testreport.Missing(t, "rss", "this system does not tell what a process takes")
	}
	testreport.Real(t, "rss", "VmRSS of the broker's process")
	for _, path := range []string{"/fixed", "/chunked"} {
		begun := time.Now()
		res, err := v.http.Get(url + path)
		if err != nil {
			t.Fatal(err)
		}
		n, err := discard(res.Body)
		res.Body.Close()
		if res.StatusCode != http.StatusOK || n != largeBody || err != nil {
			t.Errorf("GET %s: %s, %d bytes, %v", path, res.Status, n, err)
		}
		down := time.Since(begun)

		req, err := http.NewRequestWithContext(t.Context(), "POST", url+path, &nothing{left: largeBody})
		if err != nil {
			t.Fatal(err)
		}
		req.ContentLength = -1
		if path == "/fixed" {
			req.ContentLength = largeBody
		}
		req.Header.Set("X-CSRF", "1")
		res, err = v.http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if want := fmt.Sprintf(`"%d bytes, <nil>"`, largeBody); res.StatusCode != http.StatusOK || string(text) != want {
			t.Errorf("POST %s: %s %s, want %s", path, res.Status, text, want)
		}
		t.Logf("%s: %v down, %v up", path, down, time.Since(begun)-down)
	}
	peak, _ := memory(p, "VmHWM")
	t.Logf("%d MiB before, %d MiB at the most", before>>20, peak>>20)
	if peak > before+mostGrowth {
		t.Errorf("the program took %d MiB more than before", (peak-before)>>20)
	}
}

// nothing is a body of zeros that nobody holds.
type nothing struct{ left int64 }

var zeros [256 << 10]byte

func (b *nothing) Read(p []byte) (int, error) {
	n := copy(p, zeros[:min(b.left, int64(len(zeros)))])
	if b.left -= int64(n); n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

// WriteTo spares io.Copy its small buffer.
func (b *nothing) WriteTo(w io.Writer) (total int64, err error) {
	for b.left > 0 && err == nil {
		var n int
		n, err = w.Write(zeros[:min(b.left, int64(len(zeros)))])
		b.left -= int64(n)
		total += int64(n)
	}
	return total, err
}

// discard reads to the end, in pieces larger than io.Discard's.
func discard(r io.Reader) (total int64, err error) {
	buffer := make([]byte, 256<<10)
	for {
		n, err := r.Read(buffer)
		total += int64(n)
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

// memory reads a line of what Linux tells about a process, in bytes.
func memory(p *program, name string) (int64, bool) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(status)) {
		if fields := strings.Fields(line); len(fields) == 3 && fields[0] == name+":" {
			n, err := strconv.ParseInt(fields[1], 10, 64)
			return n << 10, err == nil
		}
	}
	return 0, false
}
