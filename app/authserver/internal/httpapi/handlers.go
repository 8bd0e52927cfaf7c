package httpapi

import (
	"context"
	"net/http"
	"strings"
	"time"

	"cloakroom/app/authserver/internal/accounts"
	"cloakroom/app/authserver/internal/signin"
)

// accountView is an account as its owner sees it.
type accountView struct {
	ID            string    `json:"id"`
	Email         string    `json:"email"`
	EmailVerified bool      `json:"email_verified"` // by a provider; nothing here verifies addresses yet
	Username      string    `json:"username,omitempty"`
	Name          string    `json:"name,omitempty"`
	Role          string    `json:"role"`
	CreatedAt     time.Time `json:"created_at"`
}

func view(a accounts.Account) accountView {
	return accountView{ID: a.ID, Email: a.Email, EmailVerified: a.Verified, Username: a.Username, Name: a.Name, Role: a.Role, CreatedAt: a.CreatedAt}
}

// pairView is RFC 6749, section 5.1, with the refresh token's lifetime added.
type pairView struct {
	AccessToken      string `json:"access_token"`
	TokenType        string `json:"token_type"`
	ExpiresIn        int64  `json:"expires_in"` // seconds
	RefreshToken     string `json:"refresh_token"`
	RefreshExpiresIn int64  `json:"refresh_expires_in"` // seconds
}

func writePair(w http.ResponseWriter, p signin.Pair) {
	writeJSON(w, http.StatusOK, pairView{
		AccessToken:      p.AccessToken,
		TokenType:        "bearer",
		ExpiresIn:        int64(p.AccessLifetime / time.Second),
		RefreshToken:     p.RefreshToken,
		RefreshExpiresIn: int64(p.RefreshLifetime / time.Second),
	})
}

func (a *api) register(w http.ResponseWriter, r *http.Request) error {
	in, err := read(r)
	if err != nil {
		return err
	}
	if in.Email == "" || in.Password == "" {
		return invalid("An email address and a password are needed.")
	}
	account, err := a.service.Register(r.Context(), signin.Registration{
		Email:    in.Email,
		Username: in.Username,
		Name:     in.Name,
		Password: in.Password,
	}, a.clientAddress(r))
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusCreated, view(account))
	return nil
}

func (a *api) login(w http.ResponseWriter, r *http.Request) error {
	in, err := read(r)
	if err != nil {
		return err
	}
	// OAuth's password form, and the many clients made after it, send an email
	// address as username.
	login := in.Email
	if login == "" {
		login = in.Username
	}
	if login == "" || in.Password == "" {
		return invalid("An email address or user name, and a password, are needed.")
	}
	pair, err := a.service.Login(r.Context(), login, in.Password, a.clientAddress(r))
	if err != nil {
		return err
	}
	writePair(w, pair)
	return nil
}

// exchange takes the ID token of a provider in the place of a password.
func (a *api) exchange(w http.ResponseWriter, r *http.Request) error {
	in, err := read(r)
	if err != nil {
		return err
	}
	if in.Credential == "" {
		return invalid("A credential, the provider's ID token, is needed.")
	}
	pair, err := a.service.Exchange(r.Context(), in.Credential, a.clientAddress(r))
	if err != nil {
		return err
	}
	writePair(w, pair)
	return nil
}

func (a *api) refresh(w http.ResponseWriter, r *http.Request) error {
	in, err := read(r)
	if err != nil {
		return err
	}
	if in.RefreshToken == "" {
		return invalid("A refresh_token is needed.")
	}
	pair, err := a.service.Refresh(r.Context(), in.RefreshToken, a.clientAddress(r))
	if err != nil {
		return err
	}
	writePair(w, pair)
	return nil
}

func (a *api) logout(w http.ResponseWriter, r *http.Request) error {
	in, err := read(r)
	if err != nil {
		return err
	}
	if in.RefreshToken == "" {
		return invalid("A refresh_token is needed.")
	}
	if err := a.service.Logout(r.Context(), in.RefreshToken, a.clientAddress(r)); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, map[string]string{"detail": "Signed out."})
	return nil
}

func (a *api) verify(w http.ResponseWriter, r *http.Request) error {
	account, err := a.service.Bearer(r.Context(), bearer(r))
	if err != nil {
		return err
	}
	type user struct {
		ID    string `json:"id"`
		Email string `json:"email"`
		Role  string `json:"role"`
	}
	writeJSON(w, http.StatusOK, map[string]user{"user": {ID: account.ID, Email: account.Email, Role: account.Role}})
	return nil
}

func (a *api) aboutMe(w http.ResponseWriter, r *http.Request) error {
	account, err := a.service.Bearer(r.Context(), bearer(r))
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, view(account))
	return nil
}

func (a *api) keySet(w http.ResponseWriter, _ *http.Request) error {
	// The one answer that is public, and that every API asks for again and
	// again. Five minutes are soon enough for a new key to be known.
	w.Header().Set("Cache-Control", "public, max-age=300")
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(a.jwks)
	return nil
}

func (a *api) live(w http.ResponseWriter, _ *http.Request) error {
	writeJSON(w, http.StatusOK, map[string]string{"status": "ok"})
	return nil
}

func (a *api) ready(w http.ResponseWriter, r *http.Request) error {
	ctx, cancel := context.WithTimeout(r.Context(), readyWithin)
	defer cancel()
	if err := a.store.Ping(ctx); err != nil {
		a.log.WarnContext(ctx, "not ready", "error", err)
		return problem{http.StatusServiceUnavailable, "not_ready", "The database does not answer."}
	}
	writeJSON(w, http.StatusOK, map[string]string{"status": "ok"})
	return nil
}

// bearer returns the token of the Authorization header, or an empty string
// where there is none or more than one header (RFC 6750, section 2.1).
func bearer(r *http.Request) string {
	headers := r.Header.Values("Authorization")
	if len(headers) != 1 {
		return ""
	}
	scheme, token, _ := strings.Cut(headers[0], " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}
