package relay

import "errors"

// settle ends the connection of an exchange without a response and waits for a write under way. Only then is it known
// whether something of the request was written: a service may have read it all, and hung up, before Write returns, and
// what it has seen must not be taken for never executed. cut says that the write was ended for that.
func (x *exchange) settle() (cut bool) {
	if !x.writing.TryLock() {
		cut = true
		x.cut()
		x.writing.Lock()
	}
	defer x.writing.Unlock()
	x.cut()
	return cut
}

func (x *exchange) cut() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.aborted {
		x.aborted = true
		x.c.abort()
		x.out.halt()
	}
}

// failure says why the exchange failed, given what was seen of it.
func (x *exchange) failure(seen error) error {
	cut := !x.responded && x.settle()
	x.mu.Lock()
	defer x.mu.Unlock()
	err, op := seen, "read response"
	switch _, garbage := errors.AsType[*ProtocolError](seen); {
	case x.cause != nil:
		err = x.cause
	case x.writeErr != nil && !garbage && !cut:
		err, op = x.writeErr, "write request"
	}
	switch err.(type) {
	case *ClientError, *exchangeError:
		return err
	}
	return &exchangeError{op: op, err: err, never: !x.wrote && !x.responded, responded: x.responded}
}
