package guardtest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// patience is how long a Client waits for anything.
const patience = 10 * time.Second

// Client sends bytes as they are and reads HTTP answers.
type Client struct {
	*net.TCPConn
	answers *bufio.Reader
}

// Answer is what a server said.
type Answer struct {
	Status int
	Header http.Header
	Close  bool // the server announced that it closes the connection
	Body   string
}

// Dial connects to a server.
func Dial(addr string) (*Client, error) {
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	return &Client{TCPConn: nc.(*net.TCPConn), answers: bufio.NewReader(nc)}, nil
}

// Send writes each piece by itself. It stops without complaint where the
// server stops taking them in: what it thinks of them shows in its answers.
func (c *Client) Send(pieces ...string) {
	c.SetWriteDeadline(time.Now().Add(patience))
	for _, p := range pieces {
		if _, err := io.WriteString(c, p); err != nil {
			return
		}
	}
}

// SendBytewise writes s one byte at a time.
func (c *Client) SendBytewise(s string) {
	c.SetWriteDeadline(time.Now().Add(patience))
	for i := range len(s) {
		if _, err := io.WriteString(c, s[i:i+1]); err != nil {
			return
		}
	}
}

// Answer reads the next answer, interim ones too, to the end of its body.
func (c *Client) Answer() (Answer, error) {
	c.SetReadDeadline(time.Now().Add(patience))
	resp, err := http.ReadResponse(c.answers, nil)
	if err != nil {
		return Answer{}, fmt.Errorf("read answer: %w", err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return Answer{}, fmt.Errorf("read answer's body: %w", err)
	}
	return Answer{Status: resp.StatusCode, Header: resp.Header, Close: resp.Close, Body: string(body)}, nil
}

// Closed waits until the server closes the connection, and reports anything
// else that it does: a further byte, a reset, or nothing.
func (c *Client) Closed() error {
	c.SetReadDeadline(time.Now().Add(patience))
	b, err := c.answers.ReadByte()
	switch {
	case err == nil:
		return fmt.Errorf("a further byte %q", b)
	case errors.Is(err, io.EOF):
		return nil
	}
	return err
}

// Rest reads what comes after the last answer, when it is no longer HTTP.
func (c *Client) Rest() io.Reader {
	c.SetReadDeadline(time.Now().Add(patience))
	return c.answers
}
