package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"
)

// authServer signs everybody in, with the one token that the upstream wants.
type authServer struct {
	url    string
	server *http.Server
}

func serveAuth(token string) (*authServer, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /login", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{
			"access_token": token, "refresh_token": newToken(), "token_type": "bearer",
			// No refresh is to fall into the benchmark.
			"expires_in": int((24 * time.Hour).Seconds()),
		})
	})
	a := &authServer{url: "http://" + l.Addr().String(), server: &http.Server{Handler: mux, ReadHeaderTimeout: answerWithin}}
	go func() { _ = a.server.Serve(l) }() // until close
	return a, nil
}

func (a *authServer) close() { _ = a.server.Close() }

// signIn signs in at the broker and returns the Cookie field of a browser that
// has another cookie beside the broker's.
func signIn(ctx context.Context, address string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	body := strings.NewReader(`{"email":"ada@example.com","password":"engines of analysis"}`)
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+address+"/auth/login", body)
	if err != nil {
		return "", err
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("X-CSRF", "1")
	r.Close = true
	transport := &http.Transport{} // the default one would ask the environment for a proxy
	in, err := transport.RoundTrip(r)
	if err != nil {
		return "", err
	}
	defer in.Body.Close()
	if in.StatusCode != http.StatusOK {
		return "", fmt.Errorf("the broker answered %s", in.Status)
	}
	for _, c := range in.Cookies() {
		return "theme=dark; " + c.Name + "=" + c.Value, nil
	}
	return "", errors.New("the broker set no cookie")
}
