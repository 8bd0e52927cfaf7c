package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "cloakroom/"

// layers says what each layer may import of the others. A package belongs to
// the layer with the longest prefix that fits.
var layers = map[string][]string{
	"domain":         {},
	"repo":           {"domain", "repo"},
	"infra":          {"domain", "infra"},
	"usecase":        {"domain"},
	"routes":         {"domain", "infra", "usecase", "routes", "routes/web"},
	"routes/web":     {},
	"app":            {"domain", "infra", "repo", "usecase", "routes", "routes/web", "app", "app/authserver"},
	"app/authserver": {"app/authserver"},
}

// outside says which packages alone may import some that are not ours. The name
// of a layer does not stand for a layer below it.
var outside = map[string][]string{
	"github.com/gofiber/fiber/v2":  {"routes", "infra/fiberapp", "app"},
	"github.com/valyala/fasthttp":  {"routes", "infra/fiberapp", "infra/httpguard", "app/bench"},
	"modernc.org/sqlite":           {"infra/db", "repo/sqlitestore", "app/authserver"},
	"github.com/redis/go-redis/v9": {"infra/db", "repo/redisstore"},
	"go.mongodb.org/mongo-driver":  {"infra/db", "repo/mongostore"},
	"database/sql":                 {"infra/db", "repo/sqlitestore", "app/authserver"},
	"net/http":                     {"infra", "routes", "app", "app/authserver"},
}

type goPackage struct {
	ImportPath string
	Imports    []string
}

// TestImportsRunOneWay reads every package of the module that is not for tests.
func TestImportsRunOneWay(t *testing.T) {
	for _, p := range listPackages(t) {
		if strings.HasSuffix(p.ImportPath, "test") {
			continue // a package for tests, such as storetest
		}
		from := strings.TrimPrefix(p.ImportPath, module)
		for _, imported := range p.Imports {
			if problem := judge(from, imported); problem != "" {
				t.Errorf("%s imports %s: %s", from, imported, problem)
			}
		}
	}
}

func judge(from, imported string) string {
	layer := layerOf(from)
	if layer == "" {
		return "the package belongs to no layer"
	}
	if ours, ok := strings.CutPrefix(imported, module); ok {
		if !slices.Contains(layers[layer], layerOf(ours)) {
			return "the direction is domain ← repo, infra ← usecase ← routes ← app, and the auth server stands alone"
		}
		return ""
	}
	for restricted, where := range outside {
		if imported != restricted && !strings.HasPrefix(imported, restricted+"/") {
			continue
		}
		if !slices.ContainsFunc(where, func(w string) bool { return within(from, w) && (layers[w] == nil || layer == w) }) {
			return "only " + strings.Join(where, ", ") + " may"
		}
	}
	return ""
}

func layerOf(path string) string {
	best := ""
	for layer := range layers {
		if within(path, layer) && len(layer) > len(best) {
			best = layer
		}
	}
	return best
}

func within(path, parent string) bool {
	return path == parent || strings.HasPrefix(path, parent+"/")
}

// TestLayeringTestCanFail shows that imports against the direction are seen.
func TestLayeringTestCanFail(t *testing.T) {
	for _, c := range []struct{ from, imported string }{
		{"domain", "cloakroom/usecase"},
		{"usecase", "cloakroom/repo"},
		{"usecase", "net/http"},
		{"repo/memstore", "cloakroom/infra/seal"},
		{"infra/seal", "cloakroom/repo"},
		{"routes", "cloakroom/repo"},
		{"routes", "cloakroom/app/broker"},
		{"routes/web", "github.com/gofiber/fiber/v2"},
		{"usecase", "github.com/gofiber/fiber/v2/utils"},
		{"repo/memstore", "database/sql"},
		{"app/authserver", "cloakroom/domain"},
		{"infra/authapi", "cloakroom/app/authserver"},
		{"tools", "fmt"},
	} {
		if judge(c.from, c.imported) == "" {
			t.Errorf("%s may import %s", c.from, c.imported)
		}
	}
	if problem := judge("app/broker", "cloakroom/repo/memstore"); problem != "" {
		t.Errorf("app/broker may not import a store: %s", problem)
	}
}

func listPackages(t *testing.T) []goPackage {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports", "cloakroom/...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var list []goPackage
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		list = append(list, p)
	}
	if len(list) < 10 {
		t.Fatalf("go list found %d packages; the test looks at the wrong place", len(list))
	}
	return list
}
