package domain

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/google/uuid"
)

// DeviceID names a device: one browser profile that somebody signed in with. It
// is a random UUID and no secret; it stands in lists, links and logs.
type DeviceID uuid.UUID

// NewDeviceID draws a version 4 UUID from random.
func NewDeviceID(random io.Reader) (DeviceID, error) {
	id, err := uuid.NewRandomFromReader(random)
	if err != nil {
		return DeviceID{}, fmt.Errorf("device id: %w", err)
	}
	return DeviceID(id), nil
}

// ParseDeviceID reads the one form that String writes: 36 characters, lower
// case. Other spellings of a UUID are refused, so that an id has one text.
func ParseDeviceID(text string) (DeviceID, error) {
	id, err := uuid.Parse(text)
	if err != nil || len(text) != deviceIDLength || strings.ContainsAny(text, "ABCDEF") {
		return DeviceID{}, errors.New("not a device id")
	}
	return DeviceID(id), nil
}

func (id DeviceID) String() string { return uuid.UUID(id).String() }

// MarshalText implements encoding.TextMarshaler.
func (id DeviceID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// IsZero reports whether id names no device.
func (id DeviceID) IsZero() bool { return id == DeviceID{} }

// ticketSecretBytes is the length of a ticket's secret: 256 bits, far beyond
// guessing, so that a plain hash is enough to keep it.
const ticketSecretBytes = 32

// The lengths of texts: a ticket's is that of the device id, a dot, and the
// secret in unpadded base64url.
const (
	deviceIDLength     = 36
	ticketSecretLength = 43
	ticketLength       = deviceIDLength + 1 + ticketSecretLength
)

var ticketEncoding = base64.RawURLEncoding.Strict()

// Ticket is what the browser keeps in its cookie: the device id and a secret
// that proves it. It is new at every sign-in. A Ticket prints as its device id.
type Ticket struct {
	DeviceID DeviceID
	secret   Secret // the bytes themselves, not their text
}

// NewTicket makes a ticket for a device with a secret drawn from random.
func NewTicket(id DeviceID, random io.Reader) (Ticket, error) {
	var raw [ticketSecretBytes]byte
	if _, err := io.ReadFull(random, raw[:]); err != nil {
		return Ticket{}, fmt.Errorf("ticket: %w", err)
	}
	return Ticket{DeviceID: id, secret: NewSecret(string(raw[:]))}, nil
}

var errNotATicket = errors.New("not a ticket")

// ParseTicket reads a cookie's value. Anything but the exact text that Reveal
// writes is an error, and the error does not repeat it.
func ParseTicket(text string) (Ticket, error) {
	if len(text) != ticketLength {
		return Ticket{}, errNotATicket
	}
	id, secret, _ := strings.Cut(text, ".")
	device, err := ParseDeviceID(id)
	if err != nil {
		return Ticket{}, errNotATicket
	}
	var encoded [ticketSecretLength]byte // every request comes this way; this one stays on the stack
	var raw [ticketSecretBytes]byte
	if copy(encoded[:], secret) != len(encoded) {
		return Ticket{}, errNotATicket
	}
	if n, err := ticketEncoding.Decode(raw[:], encoded[:]); err != nil || n != len(raw) {
		return Ticket{}, errNotATicket
	}
	return Ticket{DeviceID: device, secret: NewSecret(string(raw[:]))}, nil
}

// Reveal returns the text for the cookie.
func (t Ticket) Reveal() string {
	if t.secret.Empty() {
		return ""
	}
	return t.DeviceID.String() + "." + ticketEncoding.EncodeToString([]byte(t.secret.Reveal()))
}

// Hash returns what a store keeps instead of the secret.
func (t Ticket) Hash() TicketHash {
	if t.secret.Empty() {
		return TicketHash{}
	}
	return sha256.Sum256([]byte(t.secret.Reveal()))
}

// Format implements fmt.Formatter for every verb: the device id alone.
func (t Ticket) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, t.DeviceID.String()) }

// TicketHash is the SHA-256 of a ticket's secret.
type TicketHash [sha256.Size]byte

// Opens reports whether the ticket is the one that the hash was made of. It
// takes the same time wherever they differ. A zero hash opens for nobody.
func (h TicketHash) Opens(t Ticket) bool {
	got := t.Hash()
	return h != TicketHash{} && subtle.ConstantTimeCompare(h[:], got[:]) == 1
}
