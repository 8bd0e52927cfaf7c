package routes

import (
	"bytes"
	"fmt"
	"net/url"
	"time"

	"github.com/gofiber/fiber/v2"

	"cloakroom/domain"
	"cloakroom/routes/web"
)

// device is what the outside sees of a record.
type device struct {
	ID         domain.DeviceID `json:"id"`
	Current    bool            `json:"current"`
	Name       string          `json:"name"`       // given, or made from browser and system
	GivenName  string          `json:"given_name"` // "" if none was given
	Browser    string          `json:"browser"`
	System     string          `json:"system"`
	Kind       string          `json:"kind"` // desktop, phone, tablet or other
	Method     string          `json:"method"`
	CreatedAt  time.Time       `json:"created_at"`
	CreatedIP  string          `json:"created_ip"`
	SignedInAt time.Time       `json:"signed_in_at"`
	LastSeenAt time.Time       `json:"last_seen_at"`
	LastSeenIP string          `json:"last_seen_ip"`
	ExpiresAt  time.Time       `json:"expires_at"`
}

type deviceList struct {
	Devices []device `json:"devices"`
}

// endedAnswer is how many devices a request has signed out.
type endedAnswer struct {
	Ended int `json:"ended"`
}

// me returns the session of a request for one of our own paths.
func (h *handlers) me(c *fiber.Ctx) (domain.Record, error) {
	v, err := h.visit(c)
	if err != nil {
		return domain.Record{}, err
	}
	s, err := h.broker.Open(c.UserContext(), v)
	if err != nil {
		return domain.Record{}, err
	}
	return s.Record, nil
}

func (h *handlers) devices(c *fiber.Ctx) error {
	me, err := h.me(c)
	if err != nil {
		return err
	}
	records, err := h.broker.Devices(c.UserContext(), me)
	if err != nil {
		return err
	}
	if wantsPage(c) {
		return h.devicesPage(c, me, records)
	}
	list := deviceList{Devices: make([]device, 0, len(records))}
	for _, r := range records {
		b := web.Describe(r.UserAgent)
		list.Devices = append(list.Devices, device{
			ID: r.DeviceID, Current: r.DeviceID == me.DeviceID, Name: deviceName(r), GivenName: r.Name,
			Browser: b.Name, System: b.System, Kind: b.Kind, Method: h.methodTitle(r.Provider),
			CreatedAt: r.CreatedAt, CreatedIP: r.CreatedIP, SignedInAt: r.AuthTime,
			LastSeenAt: r.LastSeenAt, LastSeenIP: r.LastSeenIP, ExpiresAt: r.ExpiresAt,
		})
	}
	return c.JSON(list)
}

const (
	newFor     = 7 * 24 * time.Hour
	staleAfter = 90 * 24 * time.Hour
)

func (h *handlers) devicesPage(c *fiber.Ctx, me domain.Record, records []domain.Record) error {
	now := domain.Now(h.Now)
	page := web.DevicesPage{Prefix: h.Prefix, Home: h.home(c), Email: me.Email, Now: now, Notice: notices[c.Query("done")]}
	for _, r := range records {
		b := web.Describe(r.UserAgent)
		page.Devices = append(page.Devices, web.Device{
			ID: r.DeviceID.String(), GivenName: r.Name,
			Browser: b.Name, BrowserVersion: b.Version, System: b.System, Kind: b.Kind,
			Current: r.DeviceID == me.DeviceID, New: now.Sub(r.CreatedAt) < newFor, Stale: now.Sub(r.LastSeenAt) > staleAfter,
			LastSeen: r.LastSeenAt, SignedIn: r.AuthTime, FirstSeen: r.CreatedAt, EndsAt: r.ExpiresAt,
			LastIP: r.LastSeenIP, FirstIP: r.CreatedIP, Method: h.methodTitle(r.Provider),
		})
	}
	return h.render(c, fiber.StatusOK, func(w *bytes.Buffer) error { return h.pages.Devices(w, page) })
}

// home is where the app is, or "" if no route leads to the site's root.
func (h *handlers) home(c *fiber.Ctx) string {
	if h.table.Load().leads(c.Request().Header.Host(), "/") {
		return "/"
	}
	return ""
}

// notices is what the devices page says after a form did its work. The form
// names the notice; a text in the address could be anybody's.
var notices = map[string]string{
	"renamed": "The device has its new name.",
	"ended":   "That device is signed out. It is refused from now on, and its open pages stop updating.",
	"others":  "All your other devices are signed out. They are refused from now on, and their open pages stop updating.",
}

// deviceName is the given name or, without one, what the browser says it is.
func deviceName(r domain.Record) string {
	if r.Name != "" {
		return r.Name
	}
	return web.Describe(r.UserAgent).String()
}

// mine returns the session and the device that the path names.
func (h *handlers) mine(c *fiber.Ctx) (me domain.Record, id domain.DeviceID, err error) {
	if me, err = h.me(c); err != nil {
		return me, id, err
	}
	if id, err = domain.ParseDeviceID(c.Params("id")); err != nil {
		return me, id, domain.ErrNotFound
	}
	return me, id, nil
}

func (h *handlers) rename(c *fiber.Ctx) error {
	if err := h.renameTo(c); err != nil {
		return err
	}
	return c.SendStatus(fiber.StatusNoContent)
}

func (h *handlers) renameForm(c *fiber.Ctx) error {
	if err := h.renameTo(c); err != nil {
		return err
	}
	return h.backToDevices(c, "renamed")
}

func (h *handlers) renameTo(c *fiber.Ctx) error {
	me, id, err := h.mine(c)
	if err != nil {
		return err
	}
	var in struct {
		Name *string `json:"name"`
	}
	err = readInput(c, &in, func(form url.Values) {
		if form.Has("name") {
			name := form.Get("name")
			in.Name = &name
		}
	})
	switch {
	case err != nil:
		return err
	case in.Name == nil:
		return fmt.Errorf("%w: a name is needed; an empty one gives back the browser's", domain.ErrBadInput)
	}
	return h.broker.Rename(c.UserContext(), me, id, *in.Name)
}

func (h *handlers) signOut(c *fiber.Ctx) error {
	if _, _, err := h.signOutOne(c); err != nil {
		return err
	}
	return c.SendStatus(fiber.StatusNoContent)
}

func (h *handlers) signOutForm(c *fiber.Ctx) error {
	me, current, err := h.signOutOne(c)
	switch {
	case err != nil:
		return err
	case current:
		return h.gone(c, me)
	}
	return h.backToDevices(c, "ended")
}

// signOutOne ends the device that the path names, and says whether it was this one.
func (h *handlers) signOutOne(c *fiber.Ctx) (me domain.Record, current bool, err error) {
	me, id, err := h.mine(c)
	if err != nil {
		return me, false, err
	}
	if err := h.broker.SignOut(c.UserContext(), me, id); err != nil {
		return me, false, err
	}
	if current = id == me.DeviceID; current {
		h.clearCookie(c)
	}
	return me, current, nil
}

// confirmSignOut shows a button for what the form of the same address does.
func (h *handlers) confirmSignOut(c *fiber.Ctx) error {
	me, id, err := h.mine(c)
	if err != nil {
		return err
	}
	records, err := h.broker.Devices(c.UserContext(), me)
	if err != nil {
		return err
	}
	for _, r := range records {
		if r.DeviceID == id {
			return h.confirm(c, "Log out "+deviceName(r)+"?", "It is refused from now on, and its open pages stop updating.", "/devices/"+id.String()+"/sign-out", "Log out")
		}
	}
	return domain.ErrNotFound
}

// signOutMany ends all other devices, or all. What it is asked for has to be
// spelled right, because "all" is the meaning of saying nothing.
func (h *handlers) signOutMany(c *fiber.Ctx) error {
	var end func(*fiber.Ctx) (int, error)
	switch query := string(c.Request().URI().QueryString()); query {
	case "":
		end = h.endAll
	case "others=true":
		end = h.endOthers
	default:
		return fmt.Errorf("%w: the query may be others=true, or be left out to sign out everywhere", domain.ErrBadInput)
	}
	n, err := end(c)
	if err != nil {
		return err
	}
	return c.JSON(endedAnswer{Ended: n})
}

func (h *handlers) signOutOthersForm(c *fiber.Ctx) error {
	if _, err := h.endOthers(c); err != nil {
		return err
	}
	return h.backToDevices(c, "others")
}

func (h *handlers) signOutAllForm(c *fiber.Ctx) error {
	me, err := h.me(c)
	if err == nil {
		_, err = h.broker.SignOutAll(c.UserContext(), me)
	}
	if err != nil {
		return err
	}
	return h.gone(c, me)
}

func (h *handlers) endOthers(c *fiber.Ctx) (int, error) {
	me, err := h.me(c)
	if err != nil {
		return 0, err
	}
	return h.broker.SignOutOthers(c.UserContext(), me)
}

func (h *handlers) endAll(c *fiber.Ctx) (int, error) {
	me, err := h.me(c)
	if err != nil {
		return 0, err
	}
	n, err := h.broker.SignOutAll(c.UserContext(), me)
	if err == nil {
		h.clearCookie(c)
	}
	return n, err
}

func (h *handlers) confirmSignOutOthers(c *fiber.Ctx) error {
	return h.confirm(c, "Log out everywhere else?", "All your other devices are signed out at once. This one stays signed in.", "/devices/sign-out-others", "Log out everywhere else")
}

func (h *handlers) confirmSignOutAll(c *fiber.Ctx) error {
	return h.confirm(c, "Log out everywhere?", "All your devices are signed out at once, this one among them.", "/devices/sign-out-all", "Log out everywhere")
}

func (h *handlers) confirm(c *fiber.Ctx, title, text, action, button string) error {
	return h.render(c, fiber.StatusOK, func(w *bytes.Buffer) error {
		return h.pages.Confirm(w, web.ConfirmPage{
			Prefix: h.Prefix, Title: title, Text: text, Action: h.Prefix + action, Button: button, Cancel: h.Prefix + "/devices",
		})
	})
}

func (h *handlers) backToDevices(c *fiber.Ctx, notice string) error {
	return c.Redirect(h.Prefix+"/devices?done="+notice, fiber.StatusSeeOther)
}
