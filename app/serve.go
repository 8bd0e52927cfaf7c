package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"cloakroom/app/authserver"
	"cloakroom/app/broker"
	"cloakroom/app/demo"
	"cloakroom/infra/logging"
	"cloakroom/infra/settings"
)

type serveCommand struct{ configured }

func (c *serveCommand) Run(ctx context.Context, p process) error {
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	again := broker.Reload{When: hangups, Load: func() (settings.Settings, error) {
		s, _, err := settings.Load(c.input(p))
		return s, err
	}}
	s, err := again.Load()
	if err != nil {
		return err
	}
	return broker.Run(ctx, s, again, logging.New(p.stderr, s.LogFormat == "json", s.LogLevel))
}

type authServerCommand struct{ configured }

// authServerSettings adds what the command itself needs.
type authServerSettings struct {
	authserver.Settings
	LogFormat string     `name:"log-format" default:"text" enum:"text,json" help:"How log lines are written."`
	LogLevel  slog.Level `name:"log-level" default:"info" enum:"debug,info,warn,error" help:"The least important lines that are logged."`
}

func (c *authServerCommand) Run(ctx context.Context, p process) error {
	var s authServerSettings
	if err := c.load(p, &s); err != nil {
		return err
	}
	return authserver.Run(ctx, s.Settings, logging.New(p.stderr, s.LogFormat == "json", s.LogLevel))
}

type demoCommand struct{ configured }

func (c *demoCommand) Run(ctx context.Context, p process) error {
	var s demo.Settings
	if err := c.load(p, &s); err != nil {
		return err
	}
	return demo.Run(ctx, s, p.stdout, logging.New(p.stderr, false, s.LogLevel))
}
