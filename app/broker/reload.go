package broker

import (
	"context"
	"errors"
	"log/slog"
	"os"

	"cloakroom/infra/settings"
	"cloakroom/infra/settings/schema"
	"cloakroom/routes"
)

// Reload tells a running broker to read its settings once more, every time that
// When says so. The zero Reload never does.
type Reload struct {
	When <-chan os.Signal
	Load func() (settings.Settings, error)
}

// reloadable are the settings that a reload takes over.
var reloadable = map[string]bool{"route": true, "upstream-header-timeout": true}

// inForce is what a reload changes.
type inForce struct {
	settings settings.Settings
	engines  upstreams
	surface  *routes.Handlers
	log      *slog.Logger
}

// reload takes over what has changed in the settings, all of it or nothing. It
// disturbs no request: those under way have their route and engine in hand.
func (r *inForce) reload(ctx context.Context, load func() (settings.Settings, error)) {
	next, err := load()
	if err != nil {
		r.refuse(ctx, err)
		return
	}
	for _, name := range settings.Schema().Differing(&r.settings, &next) {
		if !reloadable[name] {
			r.log.WarnContext(ctx, "a setting has changed that needs a restart", "setting", name)
		}
	}
	table, engines, err := newTable(next, r.engines, r.log)
	if err != nil {
		r.refuse(ctx, err)
		return
	}
	r.surface.SetTable(table)
	r.engines.closeBut(engines)
	r.engines = engines
	r.settings.Routes, r.settings.UpstreamHeaderTimeout = next.Routes, next.UpstreamHeaderTimeout
	tellOverlaps(ctx, next.Routes, r.log)
	r.log.InfoContext(ctx, "the settings are read once more", "routes", len(next.Routes))
}

// refuse tells every problem of settings that are not taken over.
func (r *inForce) refuse(ctx context.Context, err error) {
	problems, ok := errors.AsType[schema.Problems](err)
	if !ok {
		problems = schema.Problems{err.Error()}
	}
	for _, problem := range problems {
		r.log.ErrorContext(ctx, "a problem with the new settings", "problem", problem)
	}
	r.log.ErrorContext(ctx, "the new settings are not taken over, the old ones stay in force", "problems", len(problems))
}

// tellOverlaps logs which routes take requests from others.
func tellOverlaps(ctx context.Context, list []settings.Route, log *slog.Logger) {
	for _, o := range settings.Overlaps(list) {
		level := slog.LevelInfo
		if o.Open {
			level = slog.LevelWarn
		}
		log.Log(ctx, level, o.Text)
	}
}
