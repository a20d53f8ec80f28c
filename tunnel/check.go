package tunnel

// Check says what is wrong with the Dialer's URLs, without dialling: such an
// error no attempt can mend.
func (d *Dialer) Check() error {
	server, err := parseServerURL(d.URL)
	if err != nil {
		return err
	}
	_, err = d.proxyFor(server)
	return err
}
