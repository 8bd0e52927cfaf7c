package mongostore

import (
	"fmt"
	"slices"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"cloakroom/domain"
)

// document is a device as it stands in the collection.
type document struct {
	ID      string `bson:"_id"` // the device id's text
	SignIn  signIn `bson:",inline"`
	Version int64  `bson:"version"`
	Lease   lease  `bson:",inline"`
	// WriteID is new with every write that other replicas have to hear of. By it
	// a replica knows its own write again: in the change stream, and where the
	// answer to it got lost.
	WriteID bson.ObjectID `bson:"write_id"`
}

// signIn is what Create and Overwrite set.
type signIn struct {
	TicketHash    []byte    `bson:"ticket_hash"`
	Issuer        string    `bson:"issuer"`
	Subject       string    `bson:"subject"`
	Email         string    `bson:"email"`
	EmailVerified bool      `bson:"email_verified"`
	PersonName    string    `bson:"person_name"`
	Roles         []string  `bson:"roles"`
	Provider      string    `bson:"provider"`
	SID           string    `bson:"oidc_sid"`
	Tokens        tokens    `bson:",inline"`
	Name          string    `bson:"name"`
	UserAgent     string    `bson:"user_agent"`
	Persistent    bool      `bson:"persistent"`
	CreatedAt     time.Time `bson:"created_at"`
	CreatedIP     string    `bson:"created_ip"`
	LastSeenAt    time.Time `bson:"last_seen_at"`
	LastSeenIP    string    `bson:"last_seen_ip"`
	AuthTime      time.Time `bson:"auth_time"`
	ProvedAt      time.Time `bson:"proved_at"`
	ACR           string    `bson:"acr"`
	AMR           []string  `bson:"amr"`
	ExpiresAt     time.Time `bson:"expires_at"`
}

// tokens is what ReplaceTokens sets. A Secret is binary data, because it is
// sealed; an empty one is empty.
type tokens struct {
	TokenType     string    `bson:"token_type"`
	Scope         string    `bson:"scope"`
	Access        []byte    `bson:"access_token"`
	AccessIssued  time.Time `bson:"access_issued"`
	AccessExpiry  time.Time `bson:"access_expiry"`
	Refresh       []byte    `bson:"refresh_token"`
	RefreshExpiry time.Time `bson:"refresh_expiry"`
	ID            []byte    `bson:"id_token"`
	DPoPKey       []byte    `bson:"dpop_key"`
}

// lease is an array of at most one owner, because $pull then gives the lease
// back in the same update that replaces the tokens, if it is the caller's, and
// leaves it alone if it is another's. Until means nothing without an owner.
type lease struct {
	Owner []string  `bson:"lease_owner"`
	Until time.Time `bson:"lease_until"`
}

// free is the lease that nobody holds.
func free() lease { return lease{Owner: []string{}} }

// unlisted leaves out what lists do not have.
var unlisted = bson.D{{Key: "access_token", Value: 0}, {Key: "refresh_token", Value: 0}, {Key: "id_token", Value: 0}, {Key: "dpop_key", Value: 0}}

func encodeSignIn(r domain.Record) signIn {
	return signIn{
		TicketHash: r.TicketHash[:],
		Issuer:     r.Owner.Issuer, Subject: r.Owner.Subject,
		Email: r.Email, EmailVerified: r.EmailVerified,
		PersonName: r.PersonName,
		Roles:      append([]string{}, r.Roles...),
		Provider:   r.Provider, SID: r.SID,
		Tokens: encodeTokens(r.Tokens),
		Name:   r.Name, UserAgent: r.UserAgent, Persistent: r.Persistent,
		CreatedAt: r.CreatedAt, CreatedIP: r.CreatedIP,
		LastSeenAt: r.LastSeenAt, LastSeenIP: r.LastSeenIP,
		AuthTime: r.AuthTime, ProvedAt: r.ProvedAt, ACR: r.ACR, AMR: append([]string{}, r.AMR...),
		ExpiresAt: r.ExpiresAt,
	}
}

func encodeTokens(t domain.Tokens) tokens {
	return tokens{
		TokenType: t.TokenType, Scope: t.Scope,
		Access: []byte(t.Access.Reveal()), AccessIssued: t.AccessIssued, AccessExpiry: t.AccessExpiry,
		Refresh: []byte(t.Refresh.Reveal()), RefreshExpiry: t.RefreshExpiry,
		ID: []byte(t.ID.Reveal()), DPoPKey: []byte(t.DPoPKey.Reveal()),
	}
}

// record returns what the document holds. Dates come in UTC from the driver.
func (d document) record() (domain.Record, error) {
	id, err := domain.ParseDeviceID(d.ID)
	if err != nil {
		return domain.Record{}, fmt.Errorf("document %q: %w", d.ID, err)
	}
	s, t := d.SignIn, d.SignIn.Tokens
	r := domain.Record{
		DeviceID: id,
		Owner:    domain.Owner{Issuer: s.Issuer, Subject: s.Subject},
		Email:    s.Email, EmailVerified: s.EmailVerified,
		PersonName: s.PersonName,
		Roles:      s.Roles, Provider: s.Provider, SID: s.SID,
		Tokens: domain.Tokens{
			TokenType: t.TokenType, Scope: t.Scope,
			Access: domain.NewSecret(string(t.Access)), AccessIssued: t.AccessIssued, AccessExpiry: t.AccessExpiry,
			Refresh: domain.NewSecret(string(t.Refresh)), RefreshExpiry: t.RefreshExpiry,
			ID: domain.NewSecret(string(t.ID)), DPoPKey: domain.NewSecret(string(t.DPoPKey)),
		},
		Name: s.Name, UserAgent: s.UserAgent, Persistent: s.Persistent,
		CreatedAt: s.CreatedAt, CreatedIP: s.CreatedIP,
		LastSeenAt: s.LastSeenAt, LastSeenIP: s.LastSeenIP,
		AuthTime: s.AuthTime, ProvedAt: s.ProvedAt, ACR: s.ACR, AMR: s.AMR, ExpiresAt: s.ExpiresAt,
		Version: d.Version,
	}
	if copy(r.TicketHash[:], s.TicketHash) != len(r.TicketHash) || len(s.TicketHash) != len(r.TicketHash) {
		return domain.Record{}, fmt.Errorf("document %q: ticket_hash is not %d bytes", d.ID, len(r.TicketHash))
	}
	if len(d.Lease.Owner) > 0 {
		r.Lease = domain.Lease{Owner: d.Lease.Owner[0], Until: d.Lease.Until}
	}
	return r, nil
}

// records returns what the documents hold.
func records(documents []document) ([]domain.Record, error) {
	var list []domain.Record
	for _, d := range documents {
		r, err := d.record()
		if err != nil {
			return nil, err
		}
		list = append(list, r)
	}
	return slices.Clip(list), nil
}
