package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime/pprof"
	"time"
)

// A server's process is told by one line of JSON on its standard input what to
// be, an order. It answers with a started, and from then on each line that it
// gets with a usage. It ends when its input does, and so does not outlive
// whoever started it.
type (
	order struct {
		Role     string `json:"role"`
		Upstream string `json:"upstream"` // host and port; the upstream itself has none
		Token    string `json:"token"`    // goes upstream with each request
		Auth     string `json:"auth"`     // base URL of the auth server
		Redis    string `json:"redis"`    // the command of a Redis server
		Profiles string `json:"profiles"`
	}
	started struct {
		Address string `json:"address"`
	}
	usage struct {
		CPU time.Duration `json:"cpu"` // user and system, of the whole process since its start
	}
)

// Serve is one server of a benchmark, the one that in orders. It ends when in
// or ctx does.
func Serve(ctx context.Context, in io.Reader, out io.Writer) (err error) {
	// Ctrl-C goes to all processes of a terminal, and is the parent's to heed.
	signal.Ignore(os.Interrupt)
	lines := bufio.NewScanner(in)
	var o order
	if !lines.Scan() || json.Unmarshal(lines.Bytes(), &o) != nil || roles[o.Role] == nil {
		return errors.New("this is a part of the benchmark, which starts it by itself")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer l.Close()
	if o.Profiles != "" {
		stop, err := profile(filepath.Join(o.Profiles, o.Role+".pprof"))
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, stop()) }()
	}

	ctx, stop := context.WithCancel(ctx)
	defer stop()
	served, asked := make(chan error, 1), make(chan error, 1)
	go func() { served <- roles[o.Role](ctx, l, o) }()
	go func() { asked <- answer(lines, out, l.Addr().String()) }() // may outlive Serve, which the process does not
	select {
	case err := <-served: // before its time
		return err
	case err = <-asked:
	case <-ctx.Done():
	}
	stop()
	return errors.Join(err, <-served)
}

// answer says where the server is, and then what it has used as often as it is
// asked.
func answer(lines *bufio.Scanner, out io.Writer, address string) error {
	answers := json.NewEncoder(out)
	if err := answers.Encode(started{Address: address}); err != nil {
		return err
	}
	for lines.Scan() {
		used, err := cpuTime()
		if err != nil {
			return err
		}
		if err := answers.Encode(usage{CPU: used}); err != nil {
			return err
		}
	}
	return lines.Err()
}

// profile writes a CPU profile from now until stop.
func profile(name string) (stop func() error, err error) {
	f, err := os.Create(name)
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() error { pprof.StopCPUProfile(); return f.Close() }, nil
}

// process is a server's process as its parent has it.
type process struct {
	address string

	cmd     *exec.Cmd
	stdin   io.WriteCloser
	orders  *json.Encoder
	answers *json.Decoder
}

// answerWithin bounds each wait for a process: for an answer, and for its end.
const answerWithin = 15 * time.Second

// start starts a server.
func (c Config) start(ctx context.Context, o order) (*process, error) {
	p := &process{cmd: exec.Command(c.Self[0], c.Self[1:]...)}
	p.cmd.Stderr = c.Progress
	p.cmd.WaitDelay = time.Second
	var err error
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	p.orders, p.answers = json.NewEncoder(p.stdin), json.NewDecoder(stdout)
	var s started
	if err := p.ask(ctx, o, &s); err != nil {
		return nil, errors.Join(err, p.stop())
	}
	p.address = s.Address
	return p, nil
}

// cpu returns the CPU time that the server has used since its start.
func (p *process) cpu(ctx context.Context) (time.Duration, error) {
	var u usage
	err := p.ask(ctx, struct{}{}, &u)
	return u.CPU, err
}

// ask sends a line and waits for the answer. A process that gives none is
// killed: nothing else ends the wait.
func (p *process) ask(ctx context.Context, line, into any) error {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = p.cmd.Process.Kill() })()
	err := p.orders.Encode(line)
	if err == nil {
		err = p.answers.Decode(into)
	}
	if err != nil {
		return fmt.Errorf("no answer from its process: %w", errors.Join(err, context.Cause(ctx)))
	}
	return nil
}

// stop ends the process and waits until it has.
func (p *process) stop() error {
	p.stdin.Close()
	kill := time.AfterFunc(answerWithin, func() { _ = p.cmd.Process.Kill() })
	defer kill.Stop()
	return p.cmd.Wait()
}
