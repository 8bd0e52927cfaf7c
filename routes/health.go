package routes

import (
	"github.com/gofiber/fiber/v2"
)

// live says that the process runs. It asks nobody.
func (h *handlers) live(c *fiber.Ctx) error {
	return c.JSON(fiber.Map{"status": "ok"})
}

// ready says whether requests should be sent here. Without its store the
// broker can answer nobody; without the auth server it still serves every
// device whose token lives, so that is degraded and not unready.
func (h *handlers) ready(c *fiber.Ctx) error {
	health := h.broker.Health(c.UserContext())
	status, code := "ready", fiber.StatusOK
	store, auth := "ok", "ok"
	if health.Auth != nil {
		status, auth = "degraded", "unavailable"
	}
	if health.Store != nil {
		h.Log.WarnContext(c.UserContext(), "not ready", "error", health.Store)
		status, code, store = "unavailable", fiber.StatusServiceUnavailable, "unavailable"
	}
	if h.draining.Load() {
		status, code = "draining", fiber.StatusServiceUnavailable
	}
	return c.Status(code).JSON(fiber.Map{"status": status, "store": store, "auth_server": auth})
}
