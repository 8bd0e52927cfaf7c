package schema

import (
	"encoding"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"cloakroom/domain"
)

// No message about a value repeats it: what stands in the wrong place may be a
// secret, and a URL may hold a password.

// setDefault gives a field the row's default, or its zero value if it has none.
func (r Row) setDefault(v reflect.Value) error {
	v.SetZero()
	if r.Default == "" {
		return nil
	}
	if !r.List {
		return r.decode(v, r.Default)
	}
	for _, text := range splitList(r.Default) {
		element := reflect.New(v.Type().Elem()).Elem()
		if err := r.decode(element, text); err != nil {
			return err
		}
		v.Set(reflect.Append(v, element))
	}
	return nil
}

// Fill reads the named fields of the struct that target points to, whose tags
// are those that Of knows. A type whose values are such structs in YAML and one
// text elsewhere calls it from its UnmarshalText. A field that is a list gets one
// value.
func Fill(target any, texts map[string]string) error {
	v := reflect.ValueOf(target).Elem()
	for _, r := range structRows(v.Type(), nil) {
		text, ok := texts[r.Name]
		if !ok {
			continue
		}
		field := v.FieldByIndex(r.field)
		if r.List {
			field.Set(reflect.MakeSlice(field.Type(), 1, 1))
			field = field.Index(0)
		}
		if err := r.decode(field, text); err != nil {
			return fmt.Errorf("has a bad %s, which %w", r.Name, err)
		}
	}
	return nil
}

// decode reads one value. Types that are read by UnmarshalText must not repeat
// the text in their errors.
func (r Row) decode(v reflect.Value, text string) error {
	if text == "" && !r.List {
		switch {
		case r.Empty, r.Default == "" && !r.Required:
			v.SetZero()
			return nil
		case r.Default != "":
			return fmt.Errorf("is empty; give a value, or leave it out for %s", r.Default)
		}
		return errors.New("is empty; give a value")
	}
	if r.Choices != nil && !slices.Contains(r.Choices, text) {
		return fmt.Errorf("is none of the allowed values; write one of %s", strings.Join(r.Choices, ", "))
	}
	switch target := v.Addr().Interface().(type) {
	case *time.Duration:
		return r.decodeDuration(target, text)
	case **time.Duration: // nil is another value than 0
		*target = new(time.Duration)
		return r.decodeDuration(*target, text)
	case **url.URL:
		return r.decodeURL(target, text)
	case *netip.Prefix:
		return decodePrefix(target, text)
	case *domain.Secret:
		*target = domain.NewSecret(text)
		return nil
	case encoding.TextUnmarshaler:
		return target.UnmarshalText([]byte(text))
	}
	switch v.Kind() {
	case reflect.String:
		if err := checkForm(r.Form, text); err != nil {
			return err
		}
		v.SetString(text)
	case reflect.Bool:
		switch strings.ToLower(text) {
		case "true", "yes", "on", "1":
			v.SetBool(true)
		case "false", "no", "off", "0":
			v.SetBool(false)
		default:
			return errors.New("is neither true nor false; write one of them")
		}
	case reflect.Int, reflect.Uint8, reflect.Uint32:
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return errors.New("is not a whole number; write digits alone")
		}
		if least, _ := strconv.ParseInt(r.Min, 10, 64); n < least {
			return fmt.Errorf("is too small; give at least %d", least)
		}
		switch {
		case v.CanInt():
			v.SetInt(n)
		case v.OverflowUint(uint64(n)):
			return fmt.Errorf("is too large; give at most %d", uint64(1)<<v.Type().Bits()-1)
		default:
			v.SetUint(uint64(n))
		}
	default:
		panic(fmt.Sprintf("schema: %s: no setting can be of type %s", r.Name, v.Type()))
	}
	return nil
}

func (r Row) decodeDuration(target *time.Duration, text string) error {
	d, err := time.ParseDuration(text)
	if err != nil {
		return errors.New("is not a duration; write numbers with their units, for example 30s, 1h30m or 720h")
	}
	var least time.Duration
	if r.Min != "" {
		if least, err = time.ParseDuration(r.Min); err != nil {
			panic("schema: the least of " + r.Name)
		}
	}
	if d < least {
		return fmt.Errorf("is too short; give at least %s", FormatDuration(least))
	}
	*target = d
	return nil
}

// ParseURL reads a URL by a form: "origin", "base" or "" for neither.
func ParseURL(form, text string) (*url.URL, error) {
	var u *url.URL
	err := Row{Form: form}.decodeURL(&u, text)
	return u, err
}

// decodeURL reads an http or https URL. The form origin allows no path and
// makes the text canonical: lower case, no default port, as browsers write an
// Origin header (RFC 6454, section 6.1). The form base allows a path, without
// its last slash.
func (r Row) decodeURL(target **url.URL, text string) error {
	u, err := url.Parse(text)
	if err != nil {
		return errors.New("is not a URL; write for example https://host.example")
	}
	u.Scheme, u.Host = strings.ToLower(u.Scheme), strings.TrimSuffix(strings.ToLower(u.Host), ":")
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return errors.New("does not begin with http:// or https://; write for example https://host.example")
	case u.Hostname() == "":
		return errors.New("names no host; write for example https://host.example")
	case u.User != nil:
		return errors.New("holds a user name or password; take it out")
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || strings.HasSuffix(text, "#"):
		return errors.New("has a query or a fragment; take it out")
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return errors.New("has a port outside 1 to 65535")
		}
	}
	if r.Form == "origin" {
		if u.Path != "" && u.Path != "/" {
			return errors.New("has a path; give scheme, host and port alone, for example https://host.example")
		}
		u.Path, u.RawPath = "", ""
		if port := u.Port(); u.Scheme == "http" && port == "80" || u.Scheme == "https" && port == "443" {
			u.Host = strings.TrimSuffix(u.Host, ":"+port)
		}
	}
	u.Path = strings.TrimRight(u.Path, "/")
	if u.Path != "" && (u.RawPath != "" || path.Clean(u.Path) != u.Path) {
		return errors.New("has a path with .., empty parts or escapes; write it plainly")
	}
	*target = u
	return nil
}

// decodePrefix reads a range of addresses, or one address as a range of one.
func decodePrefix(target *netip.Prefix, text string) error {
	p, err := netip.ParsePrefix(text)
	if addr, err2 := netip.ParseAddr(text); err2 == nil && addr.Zone() == "" {
		p, err = netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	switch {
	case err != nil:
		return errors.New("is not a range of addresses; write for example 10.0.0.0/8, fd00::/8 or 192.0.2.7")
	case p.Addr().Is4In6():
		return errors.New("is an IPv4 address written as IPv6; write it as IPv4")
	case p != p.Masked():
		return fmt.Errorf("has address bits behind its /%d; clear them, or write a longer prefix", p.Bits())
	}
	*target = p
	return nil
}

// checkForm judges a text by its row's form.
func checkForm(form, text string) error {
	switch form {
	case "address":
		host, port, err := net.SplitHostPort(text)
		if err != nil {
			return errors.New("is not an address; write host:port, for example 127.0.0.1:8080 or :8080")
		}
		if _, err := strconv.ParseUint(port, 10, 16); err != nil {
			return errors.New("has no port from 0 to 65535; write for example 127.0.0.1:8080")
		}
		if strings.ContainsAny(host, "/@ ") {
			return errors.New("has a host that is none; write a name or an IP address, without http://")
		}
	case "path":
		switch {
		case !strings.HasPrefix(text, "/"):
			return errors.New("does not begin with a slash; write for example /auth")
		case strings.ContainsAny(text, "?#%\\ \t\r\n") || path.Clean(text) != text:
			return errors.New("is not a plain path; write for example /auth, without a slash at the end, .., %, ? or #")
		}
	}
	return nil
}

// splitList takes a list apart at its commas. Space around the values and empty
// ones do not count.
func splitList(text string) (values []string) {
	for part := range strings.SplitSeq(text, ",") {
		if part = strings.TrimSpace(part); part != "" {
			values = append(values, part)
		}
	}
	return values
}

// formatValue writes a field as a setting would be written, a secret as "[redacted]".
func (r Row) formatValue(v reflect.Value) string {
	if r.List {
		var parts []string
		for i := range v.Len() {
			parts = append(parts, r.formatOne(v.Index(i)))
		}
		return strings.Join(parts, ",")
	}
	return r.formatOne(v)
}

func (r Row) formatOne(v reflect.Value) string {
	switch {
	case v.IsZero() && v.Kind() != reflect.Bool && !v.CanInt() && !v.CanUint():
		return ""
	case r.Secret:
		return domain.Secret{}.String()
	}
	switch value := v.Interface().(type) {
	case time.Duration:
		return FormatDuration(value)
	case fmt.Stringer:
		if r.Choices != nil {
			return strings.ToLower(value.String())
		}
		return value.String()
	}
	return fmt.Sprint(v.Interface())
}

// FormatDuration writes a duration without the zero parts that
// time.Duration.String appends: 336h and not 336h0m0s.
func FormatDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
