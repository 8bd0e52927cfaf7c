package authapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"

	"cloakroom/domain"
	"cloakroom/infra/authcall"
)

// call is one request to the auth server. Its fields are all Secrets, so that
// nothing here can be printed by accident.
type call struct {
	op     string // for errors
	path   string
	form   bool
	fields map[string]domain.Secret
	bearer domain.Secret // may be empty
	ip     string        // the browser's, may be empty
	people bool          // sign-in or registration
}

// answer is what came back, read to its end.
type answer struct {
	op     string
	status int
	header http.Header
	fields map[string]json.RawMessage // nil unless the body is one JSON object
	empty  bool                       // there was no body
	retry  time.Duration              // Retry-After; 0 if it does not say
}

func (a answer) ok() bool { return a.status >= 200 && a.status < 300 }

// post sends a call and reads the answer, whatever its status. Its error means
// that there is no whole answer, and says so in the words of unreachable.
func (c *Client) post(ctx context.Context, q call) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()

	req, err := c.request(ctx, q)
	if err != nil {
		// Nothing of what a person sends goes into method or URL.
		return answer{}, &authcall.Error{Kind: authcall.ClientError, Op: q.op, What: "no request can be made of the settings", Outcome: domain.ErrAuthMisconfigured}
	}
	// RoundTrip and not Client.Do, which would follow redirects: one of them
	// would carry a password to wherever it points.
	transport := c.tokens
	if q.people {
		transport = c.people
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return answer{}, authcall.Unreachable(ctx, q.op, err)
	}
	defer resp.Body.Close()

	a := answer{
		op:     q.op,
		status: resp.StatusCode,
		header: resp.Header,
		retry:  authcall.RetryAfter(resp.Header.Get("Retry-After"), c.cfg.Now()),
	}
	if a.status < 200 {
		return a, nil // 101: what follows is no body, and no timeout ends it
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return answer{}, authcall.Unreachable(ctx, q.op, err)
	}
	a.empty = len(body) == 0
	if len(body) <= maxAnswer && json.Unmarshal(body, &a.fields) != nil {
		a.fields = nil
	}
	return a, nil
}

func (c *Client) request(ctx context.Context, q call) (*http.Request, error) {
	target := c.cfg.BaseURL.JoinPath(q.path)
	user := target.User
	target.User, target.Fragment = nil, ""

	body, kind, err := encode(q)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target.String(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", kind)
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "cloakroom")
	if q.ip != "" {
		req.Header.Set("X-Forwarded-For", q.ip)
	}
	switch {
	case !q.bearer.Empty():
		req.Header.Set("Authorization", "Bearer "+q.bearer.Reveal())
	case user != nil:
		password, _ := user.Password()
		req.SetBasicAuth(user.Username(), password)
	}
	return req, nil
}

func encode(q call) (body []byte, contentType string, err error) {
	if q.form {
		form := url.Values{}
		for name, value := range q.fields {
			form.Set(name, value.Reveal())
		}
		return []byte(form.Encode()), "application/x-www-form-urlencoded", nil
	}
	object := make(map[string]string, len(q.fields))
	for name, value := range q.fields {
		object[name] = value.Reveal()
	}
	body, err = json.Marshal(object)
	return body, "application/json", err
}

// grant reads the tokens of a good answer. It is not ok without an access
// token that can stand in a header, or if there is a refresh token that cannot
// be read: going on with the old one would lose the device later.
func (c *Client) grant(a answer) (domain.Grant, bool) {
	access, ok := text(a.fields[c.cfg.AccessTokenAnswer])
	if !ok || access == "" || strings.ContainsFunc(access, notVisible) {
		return domain.Grant{}, false
	}
	refresh, ok := text(a.fields[c.cfg.RefreshTokenAnswer])
	if !ok {
		return domain.Grant{}, false
	}
	tokenType, _ := text(a.fields[c.cfg.TokenTypeAnswer])
	return domain.Grant{
		TokenType:   tokenType,
		Access:      domain.NewSecret(access),
		AccessLife:  life(a.fields[c.cfg.ExpiresInAnswer]),
		Refresh:     domain.NewSecret(refresh),
		RefreshLife: life(a.fields[c.cfg.RefreshExpiresInAnswer]),
	}, true
}

func notVisible(r rune) bool { return r <= ' ' || r > '~' }

// text reads a JSON string. Absent and null are empty; anything else is not ok.
func text(raw json.RawMessage) (s string, ok bool) {
	if raw == nil {
		return "", true
	}
	return s, json.Unmarshal(raw, &s) == nil
}

// longestLife keeps seconds within a Duration. The policy's own limit, which
// is shorter, is package domain's.
const longestLife = 100 * 365 * 24 * time.Hour

// life reads expires_in, which RFC 6749 (appendix A.14) makes a number and some
// servers a string. What is not above zero or cannot be read is 0, unknown.
func life(raw json.RawMessage) time.Duration {
	digits := string(raw)
	if s, ok := text(raw); ok {
		digits = strings.TrimSpace(s)
	}
	seconds, err := strconv.ParseFloat(digits, 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) || !(seconds > 0) {
		return 0
	}
	return time.Duration(min(seconds, longestLife.Seconds()) * float64(time.Second))
}

// maxDetail is the length of the longest detail that is handed on, in
// characters.
const maxDetail = 300

// detail returns the sentence for people in a refusal, cut and cleaned, or
// nothing. FastAPI puts it into detail, OAuth servers into error_description,
// many others into message.
func (a answer) detail() string {
	for _, name := range []string{"detail", "error_description", "message"} {
		if s := clean(sentence(a.fields[name])); s != "" {
			return s
		}
	}
	return ""
}

// sentence makes text of a string, or of a list of strings or of FastAPI's
// {loc, msg} objects. Of these it takes the field's name and the message alone:
// the rest repeats what was typed, passwords included.
func sentence(raw json.RawMessage) string {
	if s, ok := text(raw); ok {
		return s
	}
	var items []json.RawMessage
	if json.Unmarshal(raw, &items) != nil {
		return ""
	}
	var parts []string
	for _, item := range items {
		if s, ok := text(item); ok {
			parts = append(parts, s)
			continue
		}
		var problem struct {
			Where []any  `json:"loc"`
			What  string `json:"msg"`
		}
		if json.Unmarshal(item, &problem) != nil || problem.What == "" {
			continue
		}
		if n := len(problem.Where); n > 0 {
			if field, ok := problem.Where[n-1].(string); ok && field != "body" {
				problem.What = field + ": " + problem.What
			}
		}
		parts = append(parts, problem.What)
	}
	return strings.Join(parts, "; ")
}

func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s)
	s = strings.Join(strings.Fields(s), " ")
	if runes := []rune(s); len(runes) > maxDetail {
		s = string(runes[:maxDetail-1]) + "…"
	}
	return s
}
