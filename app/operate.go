package main

import (
	"context"
	"errors"
	"fmt"

	"cloakroom/app/broker"
	"cloakroom/infra/logging"
	"cloakroom/infra/settings"
	"cloakroom/repo"
	"cloakroom/usecase"
)

type keysRotateCommand struct {
	configured
	output
}

// Run seals every record's tokens with the first key. It takes serve's
// settings, so that it finds the same store and the same keys.
func (c *keysRotateCommand) Run(ctx context.Context, p process) (err error) {
	s, _, err := settings.Load(c.input(p))
	if err != nil {
		return err
	}
	store, err := openStore(ctx, p, s, s.Store)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	done, err := usecase.Reseal(ctx, store)
	for _, problem := range done.Problems {
		fmt.Fprintf(p.stderr, "cloakroom: %v\n", problem)
	}
	if err != nil {
		return fmt.Errorf("%w; %d devices were done, and doing them again does no harm", err, done.Done)
	}
	answer := struct {
		Done   int `json:"done"`
		Failed int `json:"failed"`
	}{done.Done, done.Failed}
	text := fmt.Sprintf("%d devices are sealed with the first key.\n", done.Done)
	if done.Failed > 0 {
		text += fmt.Sprintf("%d are not: see above, and keep the other keys until this says none.\n", done.Failed)
	}
	if err := c.print(p, text, answer); err != nil {
		return err
	}
	if done.Failed > 0 {
		return errReported
	}
	return nil
}

type devicesMigrateCommand struct {
	configured
	output
	From  settings.Store `required:"" placeholder:"URL" help:"The store that has the devices, written as for --store."`
	To    settings.Store `required:"" placeholder:"URL" help:"The store that is to have them."`
	Again bool           `help:"Make the target equal to the source once more: what changed is brought over, and what the source has no more is removed."`
}

// Run copies every record, and with --again what has changed since. The seal
// keys are those of the settings.
func (c *devicesMigrateCommand) Run(ctx context.Context, p process) (err error) {
	s, _, err := settings.Load(c.input(p))
	if err != nil {
		return err
	}
	if c.From.String() == c.To.String() {
		return errors.New("--from and --to are the same store")
	}
	from, err := openStore(ctx, p, s, c.From)
	if err != nil {
		return fmt.Errorf("--from: %w", err)
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	to, err := openStore(ctx, p, s, c.To)
	if err != nil {
		return fmt.Errorf("--to: %w", err)
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	done, err := usecase.Migrate(ctx, from, to, c.Again)
	switch {
	case errors.Is(err, usecase.ErrNotEmpty):
		return fmt.Errorf("%w; if they come from an earlier pass of this command and no broker uses it yet, say --again", err)
	case err != nil:
		return fmt.Errorf("%w; %d devices were copied; go on with --again", err, done.Copied)
	}
	text := fmt.Sprintf("%d copied, %d brought up to date, %d the same already, %d removed.\n", done.Copied, done.Updated, done.Same, done.Removed)
	return c.print(p, text, struct {
		Copied  int `json:"copied"`
		Updated int `json:"updated"`
		Same    int `json:"same"`
		Removed int `json:"removed"`
	}{done.Copied, done.Updated, done.Same, done.Removed})
}

func openStore(ctx context.Context, p process, s settings.Settings, at settings.Store) (repo.Store, error) {
	return broker.OpenStore(ctx, at, s, logging.New(p.stderr, s.LogFormat == "json", s.LogLevel))
}
