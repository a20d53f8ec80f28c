package relay

import (
	"net/http"
	"strings"
)

// NeedsHTTP2 reports whether a request may depend on what only HTTP/2 services do: it is a gRPC call, or it streams a
// body while its response may come already. An upload whose length is unknown is a stream too, but HTTP/1.1 does as
// well for those that are known as such: files, forms and everything that is put.
func NeedsHTTP2(r *http.Request) bool {
	kind := mediaType(r.Header)
	if isGRPC(kind) {
		return true
	}
	return r.ContentLength < 0 && hasBody(r) && r.Method != http.MethodPut && r.Method != http.MethodPatch &&
		r.Header["Expect"] == nil && r.Header["Upgrade"] == nil && !upload(kind)
}

// mediaType is the content type without parameters, in lower case.
func mediaType(h http.Header) string {
	values := h["Content-Type"]
	if len(values) == 0 {
		return ""
	}
	return mediaTypeOf(values[0])
}

func mediaTypeOf(value string) string {
	kind, _, _ := strings.Cut(value, ";")
	return strings.ToLower(strings.TrimSpace(kind))
}

// isGRPC is true for application/grpc and application/grpc+proto, not for application/grpc-web, which was made for
// HTTP/1.1.
func isGRPC(kind string) bool {
	rest, ok := strings.CutPrefix(kind, "application/grpc")
	return ok && (rest == "" || rest[0] == '+')
}

// upload says which types are files and forms.
func upload(kind string) bool {
	main, sub, _ := strings.Cut(kind, "/")
	switch main {
	case "multipart", "image", "audio", "video", "font":
		return true
	case "application":
		return sub == "octet-stream" || sub == "zip" || sub == "gzip" || sub == "pdf" || strings.HasPrefix(sub, "x-") ||
			strings.HasPrefix(sub, "vnd.docker.") || strings.HasPrefix(sub, "vnd.oci.") || strings.HasPrefix(sub, "grpc-web")
	}
	return false
}
