package main

import (
	"cmp"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"text/tabwriter"
	"time"

	"cloakroom/app/broker"
	"cloakroom/infra/seal"
	"cloakroom/infra/settings"
	"cloakroom/infra/settings/schema"
)

// output is the flag of the commands that answer with a few lines.
type output struct {
	Output string `enum:"text,json" default:"text" help:"How to answer: text for people, or one line of JSON for scripts."`
}

// print writes the answer, either as text or as one line of JSON.
func (o output) print(p process, text string, answer any) error {
	if o.Output != "json" {
		_, err := fmt.Fprint(p.stdout, text)
		return err
	}
	return json.NewEncoder(p.stdout).Encode(answer)
}

type configCheckCommand struct {
	configured
	output
}

// Run prints "ok", or every problem and fails. The report is the answer, so it
// goes to standard output.
func (c *configCheckCommand) Run(p process) error {
	s, _, err := settings.Load(c.input(p))
	if err == nil {
		if problem := broker.CheckCertificate(s); problem != nil {
			err = schema.Problems{problem.Error()}
		}
	}
	problems := schema.Problems{} // [] and not null in JSON
	if !errors.As(err, &problems) && err != nil {
		return err
	}
	text := new(strings.Builder)
	notes := []string{} // likewise
	if err == nil {
		text.WriteString("ok\n")
		for _, o := range settings.Overlaps(s.Routes) {
			notes = append(notes, o.Text)
			text.WriteString("note: " + o.Text + "\n")
		}
	} else {
		p.printProblems(text, problems)
	}
	printed := c.print(p, text.String(), struct {
		OK       bool            `json:"ok"`
		Problems schema.Problems `json:"problems"`
		Notes    []string        `json:"notes"`
	}{err == nil, problems, notes})
	if err != nil {
		return errReported
	}
	return printed
}

type configShowCommand struct {
	configured
	output
}

// Run prints every setting. Problems come after it and make it fail.
func (c *configShowCommand) Run(p process) error {
	_, values, problems := settings.Load(c.input(p))
	text := new(strings.Builder)
	table := tabwriter.NewWriter(text, 0, 0, 2, ' ', 0)
	for _, v := range values {
		fmt.Fprintf(table, "%s\t%s\t%s\n", v.Name, cmp.Or(v.Value, "-"), v.Origin)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	return errors.Join(problems, c.print(p, text.String(), values))
}

type keysGenerateCommand struct{ output }

// Run prints a key, alone on its line so that it can be sent into a file.
func (c *keysGenerateCommand) Run(p process) error {
	key, err := seal.GenerateKey(rand.Reader, time.Now())
	if err != nil {
		return err
	}
	return c.print(p, key.Reveal()+"\n", map[string]string{"key": key.Reveal()})
}

type versionCommand struct{ output }

// Run prints what the build knows of itself.
func (c *versionCommand) Run(p process) error {
	answer := struct {
		Version  string `json:"version"`
		Revision string `json:"revision,omitempty"`
		Modified bool   `json:"modified,omitempty"`
		Go       string `json:"go"`
	}{Version: "unknown"}
	if info, ok := debug.ReadBuildInfo(); ok {
		answer.Version, answer.Go = cmp.Or(info.Main.Version, "unknown"), info.GoVersion
		for _, s := range info.Settings {
			switch s.Key {
			case "vcs.revision":
				answer.Revision = s.Value
			case "vcs.modified":
				answer.Modified = s.Value == "true"
			}
		}
	}
	text := "cloakroom " + answer.Version
	if answer.Revision != "" {
		text += " " + answer.Revision
	}
	if answer.Modified {
		text += " (modified)"
	}
	return c.print(p, text+" "+answer.Go+"\n", answer)
}
