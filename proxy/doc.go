// Package proxy forwards one request: it is the handler of the proxy port.
//
//	request
//	  check     what a strict proxy must not pass on is 400, 404 or 405 here
//	  endpoint  from x-piko-endpoint, or the first label of Host
//	  look up   router: nobody is 502
//	  attempt   pick a candidate, RoundTrip; another candidate if that is safe
//	  answer    relay copies the response, or both ways after 101
//	  account   metrics and the access log, whatever happened
//
// It does not know what an upstream is: router hands out something that makes round trips. It opens no port, keeps no
// connection and starts no goroutine that outlives a request. Package main puts an http.Server in front of Public. Every
// error that a client sees is written by package fault.
package proxy
