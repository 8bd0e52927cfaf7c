package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"cloakroom/infra/certificate"
	"cloakroom/infra/settings"
)

// lookAtCertificate is how often the certificate's files are looked at.
const lookAtCertificate = 10 * time.Second

// CheckCertificate says whether Serve could start with the certificate that the
// settings name. The error begins with the setting's name.
func CheckCertificate(s settings.Settings) error {
	_, err := openCertificate(s, slog.New(slog.DiscardHandler))
	return err
}

// openCertificate returns nil if TLS is not ours to end.
func openCertificate(s settings.Settings, log *slog.Logger) (*certificate.Pair, error) {
	if s.TLSCert == "" {
		return nil, nil
	}
	pair, err := certificate.Open(certificate.Config{
		CertFile: s.TLSCert, KeyFile: s.TLSKey, Host: s.PublicURL.Hostname(),
		ReadFile: os.ReadFile, Now: time.Now, Log: log,
	})
	problem := (*certificate.Problem)(nil)
	switch {
	case errors.As(err, &problem) && problem.OfKey:
		return nil, fmt.Errorf("tls-key: the file %s", problem.Text)
	case errors.As(err, &problem):
		return nil, fmt.Errorf("tls-cert: the file %s", problem.Text)
	}
	return pair, err
}

// reloadCertificate looks at the certificate's files at once. pair is nil if TLS
// is not ours to end.
func reloadCertificate(ctx context.Context, pair *certificate.Pair, log *slog.Logger) {
	if pair == nil {
		return
	}
	if err := pair.Reload(); err != nil {
		log.ErrorContext(ctx, "the new certificate cannot be used; the old one stays", "problem", err)
	}
}
