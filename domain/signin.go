package domain

// Credentials is what a person typed to sign in or to register with an auth
// server that takes an address and a password.
type Credentials struct {
	Email    string // as it was typed; an auth server may take a user name here
	Password Secret
	IP       string // the browser's address, so that the auth server can throttle; empty if unknown
}

// Identity is whom an auth server says that it signed in.
type Identity struct {
	Subject       string   // the person's stable name there, never empty
	Email         string   // lower case; may be empty
	EmailVerified bool     // the auth server vouches that Email is the person's
	Roles         []string // without duplicates, in the auth server's order
	Name          string   // for people to read; may be empty
}
