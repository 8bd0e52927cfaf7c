// Command cloakroom is the broker, the auth server that can stand beside it, a
// demo of both, and the operator's tools. This package reads the command line,
// the environment and the signals, and hands on; what runs is in the packages
// below it.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"

	"cloakroom/infra/settings/schema"
)

// The exit statuses.
const (
	exitOK     = 0
	exitFailed = 1 // the settings have problems, or the command failed
	exitUsage  = 2 // the arguments make no command
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// The first signal asks to stop; from then on the second one kills.
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, process{
		args: os.Args[1:], environ: os.Environ(), readFile: os.ReadFile,
		stdout: os.Stdout, stderr: os.Stderr,
	}))
}

// process is what the commands need of the process that they run in.
type process struct {
	args     []string
	environ  []string
	readFile func(string) ([]byte, error)
	stdout   io.Writer
	stderr   io.Writer

	stray []string // arguments that no flag of the command takes
}

// errReported ends a command that has said itself what is wrong.
var errReported = errors.New("reported")

// run runs the command that the arguments name and returns the exit status.
func run(ctx context.Context, p process) int {
	helped := false
	parser, err := kong.New(newCommands(),
		kong.Name("cloakroom"),
		kong.Description(description),
		kong.Writers(p.stdout, p.stderr),
		kong.Exit(func(int) { helped = true }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
		kong.BindTo(ctx, (*context.Context)(nil)),
	)
	if err != nil {
		return p.fail(err)
	}
	p.args, p.stray = setAside(parser, p.args)
	command, err := parser.Parse(p.args)
	if helped {
		return exitOK
	}
	if err != nil {
		fmt.Fprintf(p.stderr, "cloakroom: %v\nRun 'cloakroom --help' for the commands.\n", err)
		return exitUsage
	}
	if err := command.Run(p); err != nil {
		return p.fail(err)
	}
	return exitOK
}

func (p process) fail(err error) int {
	var problems schema.Problems
	switch {
	case errors.Is(err, errReported):
	case errors.As(err, &problems):
		p.printProblems(p.stderr, problems)
	default:
		fmt.Fprintf(p.stderr, "cloakroom: %v\n", err)
	}
	return exitFailed
}

func (p process) printProblems(w io.Writer, problems schema.Problems) {
	what := "problems"
	if len(problems) == 1 {
		what = "problem"
	}
	fmt.Fprintf(w, "cloakroom: %d %s with the settings:\n", len(problems), what)
	for _, problem := range problems {
		fmt.Fprintf(w, "  - %s\n", problem)
	}
}
