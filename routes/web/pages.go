package web

import "io"

// LoginPage asks for an address and a password. Its form posts email,
// password, remember=1 if it is ticked, and return_to to {Prefix}/login.
type LoginPage struct {
	Prefix   string // where the broker's own paths begin; empty means /auth
	ReturnTo string // where to go after signing in, already found safe; may be empty
	Email    string // what was typed before, to be corrected
	Remember bool   // the box is ticked
	Register bool   // the auth server takes new accounts: link to the form
	Notice   string // what has happened, for instance that an account was made
	// NoPasswords leaves the form out: there are Providers alone.
	NoPasswords bool
	Providers   []ProviderButton
	Error       string // why the last try was refused
}

// ProviderButton is a provider to sign in with. Its form posts return_to, and
// remember=1 if that is ticked, to {Prefix}/login/{Name}.
type ProviderButton struct {
	Name  string // in the path
	Title string // "Google"
	Icon  string // a local path; empty shows none
}

// Login writes the page to w. If it fails, nothing was written.
func (p *Pages) Login(w io.Writer, page LoginPage) error {
	page.Prefix = prefixOr(page.Prefix)
	return p.write(w, "login", page)
}

// RegisterPage asks for an address and a password for a new account. Its form
// posts email, password and return_to to {Prefix}/register. What a password
// has to be is the auth server's to say: its refusal is the Error.
type RegisterPage struct {
	Prefix   string // where the broker's own paths begin; empty means /auth
	ReturnTo string // where to go after signing in, already found safe; may be empty
	Email    string // what was typed before, to be corrected
	Error    string // why the last try was refused
}

// Register writes the page to w. If it fails, nothing was written.
func (p *Pages) Register(w io.Writer, page RegisterPage) error {
	page.Prefix = prefixOr(page.Prefix)
	return p.write(w, "register", page)
}

// ReauthenticatePage asks somebody who is signed in to prove once more who they
// are. Its form posts return_to, and password if there is no Provider, to
// {Prefix}/reauthenticate.
type ReauthenticatePage struct {
	Prefix   string // where the broker's own paths begin; empty means /auth
	ReturnTo string // where to go afterwards, already found safe
	Email    string // who it is
	Provider string // where they sign in; empty for a password
	Error    string // why the last try was refused
}

// Reauthenticate writes the page to w. If it fails, nothing was written.
func (p *Pages) Reauthenticate(w io.Writer, page ReauthenticatePage) error {
	page.Prefix = prefixOr(page.Prefix)
	return p.write(w, "reauthenticate", page)
}

// ConfirmPage says what is about to happen and has one button that does it. A
// GET that would change something shows this page instead.
type ConfirmPage struct {
	Prefix string  // where the broker's own paths begin; empty means /auth
	Title  string  // the question: "Log out of this device?"
	Text   string  // what happens then
	Action string  // where the button posts to, a local path: "/auth/logout"
	Fields []Field // what it posts
	Button string  // what the button says: "Log out"
	Cancel string  // where the way out leads, a local path; empty means {Prefix}/devices
}

// Field is one hidden field of a form.
type Field struct{ Name, Value string }

// Confirm writes the page to w. If it fails, nothing was written.
func (p *Pages) Confirm(w io.Writer, page ConfirmPage) error {
	page.Prefix = prefixOr(page.Prefix)
	if page.Cancel == "" {
		page.Cancel = page.Prefix + "/devices"
	}
	return p.write(w, "confirm", page)
}

// MessagePage tells something and offers at most one way on: errors, and that
// somebody is signed out.
type MessagePage struct {
	Prefix    string // where the broker's own paths begin; empty means /auth
	Status    int    // the HTTP status of an error; 0 shows none
	Title     string // what it is: "The app does not answer"
	Text      string // what it means and what to do, for people
	Link      string // a local path; empty shows no link
	LinkText  string // "Try again"
	Reference string // the request id, to be read to support; may be empty
}

// Message writes the page to w. If it fails, nothing was written.
func (p *Pages) Message(w io.Writer, page MessagePage) error {
	page.Prefix = prefixOr(page.Prefix)
	return p.write(w, "message", page)
}
