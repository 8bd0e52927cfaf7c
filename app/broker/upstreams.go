package broker

import (
	"cloakroom/infra/settings"
	"cloakroom/infra/upstream"
	"cloakroom/infra/upstream/h1"
	"cloakroom/routes"
)

// reach is how one upstream is reached, and the key by which routes that reach
// it in the same way share its connections.
type reach struct {
	config upstream.Config
}

// upstreams holds the engines that a table's routes use.
type upstreams map[reach]engine

type engine interface {
	upstream.Engine
	Close()
}

// newEngine returns the engine that is fit for each request.
func newEngine(c upstream.Config) engine {
	return upstream.Choice{
		Plain: h1.New(h1.Config{
			ConnectTimeout: c.ConnectTimeout, HeaderTimeout: c.HeaderTimeout, IdleTimeout: c.IdleTimeout, MaxIdlePerHost: c.MaxIdlePerHost,
		}),
		Other: upstream.NewTransport(c),
	}
}

// newTable makes a table of the routes and the engines that it needs. Those of
// before that it still needs are taken over with their connections.
func newTable(s settings.Settings, before upstreams) (*routes.Table, upstreams, error) {
	engines := upstreams{}
	list := make([]routes.Route, 0, len(s.Routes))
	for _, r := range s.Routes {
		key := reach{upstream.Config{HeaderTimeout: s.UpstreamHeaderTimeout}}
		e := engines[key]
		if e == nil {
			e = before[key]
		}
		if e == nil {
			e = newEngine(key.config)
		}
		engines[key] = e
		list = append(list, routes.Route{
			Route:  upstream.Route{Prefix: r.Prefix, Target: r.Upstream, StripPrefix: r.StripPrefix},
			Engine: e,
		})
	}
	table, err := routes.NewTable(list)
	if err != nil {
		engines.closeBut(before)
		return nil, nil, err
	}
	return table, engines, nil
}

// closeBut closes every engine that others do not have.
func (u upstreams) closeBut(others upstreams) {
	for key, e := range u {
		if others[key] == nil {
			e.Close()
		}
	}
}
