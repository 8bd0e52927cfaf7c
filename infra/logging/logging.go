// Package logging makes the process's logger and lets a context carry
// attributes, such as the id of the request, into every line that is logged
// with it. The layers above log with slog's ...Context methods and need not
// know what the context holds.
package logging

import (
	"context"
	"io"
	"log/slog"
	"slices"
)

// New returns a logger that writes to w, as JSON objects or as key=value text.
func New(w io.Writer, json bool, level slog.Level) *slog.Logger {
	opts := &slog.HandlerOptions{Level: level}
	if json {
		return slog.New(handler{slog.NewJSONHandler(w, opts)})
	}
	return slog.New(handler{slog.NewTextHandler(w, opts)})
}

type contextKey struct{}

// With returns a context that carries attrs, beside those it has already.
func With(ctx context.Context, attrs ...slog.Attr) context.Context {
	have, _ := ctx.Value(contextKey{}).([]slog.Attr)
	return context.WithValue(ctx, contextKey{}, append(slices.Clip(have), attrs...))
}

// handler adds the context's attributes to each record.
type handler struct{ slog.Handler }

func (h handler) Handle(ctx context.Context, r slog.Record) error {
	if attrs, ok := ctx.Value(contextKey{}).([]slog.Attr); ok {
		r = r.Clone()
		r.AddAttrs(attrs...)
	}
	return h.Handler.Handle(ctx, r)
}

func (h handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return handler{h.Handler.WithAttrs(attrs)}
}

func (h handler) WithGroup(name string) slog.Handler {
	return handler{h.Handler.WithGroup(name)}
}
