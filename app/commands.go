package main

import (
	"slices"
	"strings"

	"github.com/alecthomas/kong"

	"cloakroom/app/demo"
	"cloakroom/infra/settings"
	"cloakroom/infra/settings/schema"
)

const description = `A device-aware token broker: the browser keeps one opaque cookie, the tokens stay here.

Settings are given by flag, environment variable, .env file or (for serve) YAML file, in this order of strength. 'cloakroom demo' shows everything at work.

The exit status is 0, 1 if the settings have problems or the command failed, 2 if the arguments make no command.`

// commands is everything that can be typed after "cloakroom".
type commands struct {
	Serve      serveCommand      `cmd:"" help:"Run the broker."`
	AuthServer authServerCommand `cmd:"" name:"auth-server" help:"Run the bundled auth server, which is a service of its own."`
	Demo       demoCommand       `cmd:"" help:"Run broker, auth server and a sample API on loopback, to look at."`
	Config     struct {
		Check configCheckCommand `cmd:"" help:"Say whether serve would start with these settings, or everything that is wrong with them."`
		Show  configShowCommand  `cmd:"" help:"Show serve's settings and where each comes from. Secrets are not shown."`
	} `cmd:"" help:"Look at the settings."`
	Keys struct {
		Generate keysGenerateCommand `cmd:"" help:"Make a key for seal-key."`
		Rotate   keysRotateCommand   `cmd:"" help:"Seal all tokens in the store with the first key, while brokers run."`
	} `cmd:"" help:"Handle keys."`
	Devices struct {
		Migrate devicesMigrateCommand `cmd:"" help:"Copy all devices from one store to another."`
	} `cmd:"" help:"Handle devices."`
	Bench   benchCommand   `cmd:"" help:"Measure what a request through the proxy costs, beside other proxies."`
	Soak    soakCommand    `cmd:"" help:"Run replicas under faults for a long time, and count what must not happen."`
	Version versionCommand `cmd:"" help:"Say which version this is."`
}

// role is a set of settings that a command can have.
type role struct {
	name   string
	schema *schema.Schema
}

//go:generate go test . -run TestDocumentsFollowTheSchema -update

// roles returns the settings of all commands. Each name is that of the command
// that runs with them.
func roles() []role {
	return []role{
		{"serve", settings.Schema()},
		{"auth-server", schema.Of(&authServerSettings{}, settings.EnvPrefix+"AUTH_SERVER_", false)},
		{"demo", schema.Of(&demo.Settings{}, settings.EnvPrefix+"DEMO_", false)},
	}
}

func newCommands() *commands {
	c := &commands{}
	all := roles()
	for i, commands := range [][]*configured{
		{&c.Serve.configured, &c.Config.Check.configured, &c.Config.Show.configured, &c.Keys.Rotate.configured, &c.Devices.Migrate.configured},
		{&c.AuthServer.configured},
		{&c.Demo.configured},
	} {
		for _, command := range commands {
			command.schema = all[i].schema
			command.flags = command.schema.Flags()
			command.Grammar = command.flags.Grammar
			for _, other := range all {
				command.beside = append(command.beside, other.schema)
			}
		}
	}
	return c
}

// configured is embedded in a command that has settings.
type configured struct {
	Grammar any `embed:""`

	flags  *schema.Flags
	schema *schema.Schema
	beside []*schema.Schema
}

func (c *configured) hasSettings() {}

// input is everything that the command's settings are read from.
func (c *configured) input(p process) schema.Input {
	return schema.Input{
		Flags: c.flags.Given(), Stray: p.stray,
		Environ: p.environ, ReadFile: p.readFile, Beside: c.beside,
	}
}

// load fills target, a struct that the schema was made of. If it has a method
// Validate, what that returns is reported with the rest.
func (c *configured) load(p process, target any) error {
	l := c.schema.Load(target, c.input(p))
	if v, ok := target.(interface{ Validate() error }); ok && l.Err() == nil {
		l.Reject(v.Validate())
	}
	return l.Err()
}

// setAside takes the arguments out that no flag of a command with settings
// takes. Kong would stop at the first; they are reported with everything else
// that is wrong.
func setAside(k *kong.Kong, args []string) (kept, stray []string) {
	for {
		trace, err := kong.Trace(k, args)
		if err != nil || trace.Error == nil || trace.Selected() == nil {
			return args, stray
		}
		if _, ok := trace.Selected().Target.Addr().Interface().(interface{ hasSettings() }); !ok {
			return args, stray
		}
		rest := trace.Path[len(trace.Path)-1].Remainder()
		if len(rest) == 0 || len(rest) > len(args) || known(trace, rest[0]) {
			return args, stray
		}
		at, n := len(args)-len(rest), 1
		if strings.HasPrefix(rest[0], "-") && !strings.Contains(rest[0], "=") && len(rest) > 1 && !strings.HasPrefix(rest[1], "-") {
			n = 2 // an unknown flag with its value, as it seems
		}
		stray = append(stray, rest[0])
		args = slices.Delete(slices.Clone(args), at, at+n)
	}
}

// known reports whether an argument is a flag of the command after all, so that
// the error is about something else and kong's to tell.
func known(trace *kong.Context, arg string) bool {
	name, _, _ := strings.Cut(arg, "=")
	return slices.ContainsFunc(trace.Flags(), func(f *kong.Flag) bool { return "--"+f.Name == name })
}
