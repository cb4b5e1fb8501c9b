// net/smtp's SendMail with a nil Auth: the body goes out as it is, with LF alone where the program wrote that.
package main

import (
	"fmt"
	"net"
	"net/smtp"
	"os"
)

func main() {
	host, port, from, to, text := os.Args[1], os.Args[2], os.Args[3], os.Args[4], os.Args[5]
	mail := fmt.Sprintf("From: %s\nTo: %s\nSubject: from go\n\n%s", from, to, text)
	if err := smtp.SendMail(net.JoinHostPort(host, port), nil, from, []string{to}, []byte(mail)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
