package passwords

import (
	_ "embed"
	"errors"
	"strings"
	"unicode/utf8"
)

// Bounds on the length of a new password, in characters. The upper one keeps a
// request body small; nothing is cut off below it.
const (
	MinLength = 8
	MaxLength = 512
)

// What is wrong with a new password.
var (
	ErrTooShort = errors.New("password too short")
	ErrTooLong  = errors.New("password too long")
	ErrCommon   = errors.New("password among the most common")
	ErrPersonal = errors.New("password equal to a name of its owner")
)

//go:embed common.txt
var commonList string

var common = func() map[string]struct{} {
	set := make(map[string]struct{})
	for line := range strings.Lines(commonList) {
		set[strings.TrimSpace(line)] = struct{}{}
	}
	return set
}()

// Check judges a new password for somebody who is known by the given names.
// There are no rules of composition (NIST SP 800-63B, section 3.1.1.2): length
// and not being guessed first are what counts. Case is ignored for the
// comparisons alone; the password itself is used as it was typed.
func Check(password string, names ...string) error {
	length := utf8.RuneCountInString(password)
	if length < MinLength {
		return ErrTooShort
	}
	if length > MaxLength {
		return ErrTooLong
	}
	if _, found := common[strings.ToLower(password)]; found {
		return ErrCommon
	}
	for _, name := range names {
		local, _, _ := strings.Cut(name, "@")
		if strings.EqualFold(password, name) || strings.EqualFold(password, local) {
			return ErrPersonal
		}
	}
	return nil
}
