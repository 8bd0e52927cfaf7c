package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"

	"cloakroom/app/authserver/internal/accounts"
	"cloakroom/app/authserver/internal/idtoken"
	"cloakroom/app/authserver/internal/passwords"
	"cloakroom/app/authserver/internal/signin"
)

// problem is an answer that is not a success: a status, a code from the list
// below for programs, and a sentence for people.
type problem struct {
	status int
	code   string
	detail string
}

func (p problem) Error() string { return p.code }

func invalid(detail string) problem {
	return problem{http.StatusBadRequest, "invalid_request", detail}
}

// outcomes is the one place where an outcome gets its status. An error that is
// not here is ours, and is shown as such without its text.
var outcomes = []struct {
	err    error
	answer problem
}{
	{accounts.ErrEmailInvalid, problem{http.StatusUnprocessableEntity, "invalid_email", "This is not an email address."}},
	{accounts.ErrUsernameInvalid, problem{http.StatusUnprocessableEntity, "invalid_username",
		"A user name has 3 to 32 letters, digits, dots, hyphens or underscores, and begins with a letter or digit."}},
	{accounts.ErrNameInvalid, problem{http.StatusUnprocessableEntity, "invalid_name", "A name has 100 characters at most, all of them printable."}},
	{accounts.ErrEmailTaken, problem{http.StatusConflict, "email_taken", "There is an account with this email address already."}},
	{accounts.ErrUsernameTaken, problem{http.StatusConflict, "username_taken", "There is an account with this user name already."}},
	{passwords.ErrTooShort, problem{http.StatusUnprocessableEntity, "weak_password",
		"A password needs at least " + strconv.Itoa(passwords.MinLength) + " characters."}},
	{passwords.ErrTooLong, problem{http.StatusUnprocessableEntity, "password_too_long",
		"A password may have " + strconv.Itoa(passwords.MaxLength) + " characters at most."}},
	{passwords.ErrCommon, problem{http.StatusUnprocessableEntity, "weak_password", "This password is among the first that anybody would guess. Choose another."}},
	{passwords.ErrPersonal, problem{http.StatusUnprocessableEntity, "weak_password", "The password must not be your email address or user name."}},
	{passwords.ErrBusy, problem{http.StatusServiceUnavailable, "busy", "Too many people are signing in at this moment. Try again shortly."}},
	{signin.ErrRefused, problem{http.StatusUnauthorized, "invalid_credentials", "The email address, user name or password is wrong."}},
	{signin.ErrDisabled, problem{http.StatusForbidden, "account_disabled", "This account is disabled."}},
	{signin.ErrNoExchange, problem{http.StatusNotFound, "not_found", "Nobody signs in here with another provider's word."}},
	{idtoken.ErrInvalid, problem{http.StatusUnauthorized, "invalid_credentials", "What the provider says could not be verified."}},
	{idtoken.ErrUnavailable, problem{http.StatusServiceUnavailable, "provider_unavailable", "The provider cannot be asked right now. Try again shortly."}},
	{signin.ErrInvalidGrant, problem{http.StatusUnauthorized, "invalid_grant", "The refresh token is unknown, expired, revoked or used already. Sign in again."}},
	{signin.ErrInvalidToken, problem{http.StatusUnauthorized, "invalid_token", "The access token is missing, invalid or expired."}},
	{context.DeadlineExceeded, problem{http.StatusServiceUnavailable, "busy", "The server could not answer in time. Try again shortly."}},
	// The client has gone. Nobody reads this answer, and nothing has failed.
	{context.Canceled, problem{http.StatusServiceUnavailable, "cancelled", "The request was given up."}},
}

// problemOf finds the answer to an error, and sets the headers that belong to
// it.
func problemOf(w http.ResponseWriter, err error) problem {
	if p, ok := errors.AsType[problem](err); ok {
		return p
	}
	if throttled, ok := errors.AsType[*signin.Throttled](err); ok {
		w.Header().Set("Retry-After", retryAfter(throttled.Wait))
		return problem{http.StatusTooManyRequests, "too_many_attempts", "Too many attempts. Wait a while before the next one."}
	}
	for _, outcome := range outcomes {
		if !errors.Is(err, outcome.err) {
			continue
		}
		switch {
		case outcome.answer.status == http.StatusServiceUnavailable:
			w.Header().Set("Retry-After", "1")
		case outcome.err == signin.ErrInvalidToken:
			w.Header().Set("WWW-Authenticate", "Bearer")
		}
		return outcome.answer
	}
	return problem{http.StatusInternalServerError, "internal", "Something went wrong here. It has been logged."}
}

// retryAfter is in whole seconds, rounded up: a client that comes back on the
// second must not come too soon.
func retryAfter(wait time.Duration) string {
	return strconv.FormatInt(int64((wait+time.Second-1)/time.Second), 10)
}

func writeProblem(w http.ResponseWriter, p problem) {
	body := struct {
		Detail string `json:"detail"`
		Error  string `json:"error"`
	}{p.detail, p.code}
	writeJSON(w, p.status, body)
}

// writeJSON drops the error of the write: the status is sent by then, and a
// client that has gone is nobody to tell.
func writeJSON(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}
