package clients

import (
	"io"
	"testing"

	"github.com/emersion/go-smtp"
)

func TestSendMail(t *testing.T) {
	near, far := newTunnel(t,
		"example.internal. 60 IN MX 10 down.internal.",
		"example.internal. 60 IN MX 20 mail.internal.",
		"mail.internal. 60 IN A 10.0.0.2",
	)
	box := make(mailbox, 1)
	server := smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) {
		return &mailSession{box: box}, nil
	}))
	server.Domain = "mail.internal"
	go server.Serve(listen(t, far, ":25"))
	defer server.Close()

	const text = "Subject: test\r\n\r\nhello\r\n"
	if err := SendMail(limited(t), near, "from@example.internal", "to@example.internal", []byte(text)); err != nil {
		t.Fatal(err)
	}
	if got, want := <-box, (mail{"from@example.internal", "to@example.internal", text}); got != want {
		t.Errorf("received %q, want %q", got, want)
	}
}

type mail struct{ from, to, text string }

type mailbox chan mail

// A mailSession puts the message of a client into a mailbox.
type mailSession struct {
	box  mailbox
	mail mail
}

func (s *mailSession) Reset()        { s.mail = mail{} }
func (s *mailSession) Logout() error { return nil }

func (s *mailSession) Mail(from string, _ *smtp.MailOptions) error {
	s.mail.from = from
	return nil
}

func (s *mailSession) Rcpt(to string, _ *smtp.RcptOptions) error {
	s.mail.to = to
	return nil
}

func (s *mailSession) Data(r io.Reader) error {
	text, err := io.ReadAll(r)
	s.mail.text = string(text)
	s.box <- s.mail
	return err
}
