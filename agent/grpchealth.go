package agent

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
)

// The messages of grpc.health.v1, without a library for them:
//
//	message HealthCheckRequest { string service = 1; }
//	message HealthCheckResponse { ServingStatus status = 1; }
//	enum ServingStatus { UNKNOWN = 0; SERVING = 1; NOT_SERVING = 2; SERVICE_UNKNOWN = 3; }
//
// Each has a byte that says whether it is compressed, and its length, in front.

const grpcHeaderLen = 5

var servingStatus = [...]string{"UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"}

const serving = 1

// What protobuf calls the ways to write a field.
const (
	wireVarint  = 0
	wireFixed64 = 1
	wireBytes   = 2
	wireFixed32 = 5
)

// grpcHealthRequest asks about a service.
func grpcHealthRequest(service string) []byte {
	message := make([]byte, grpcHeaderLen, grpcHeaderLen+2+len(service))
	if service != "" {
		message = append(message, 1<<3|wireBytes)
		message = binary.AppendUvarint(message, uint64(len(service)))
		message = append(message, service...)
	}
	binary.BigEndian.PutUint32(message[1:], uint32(len(message)-grpcHeaderLen))
	return message
}

var errGRPCMessage = errors.New("answer is not one of grpc.health.v1")

// grpcHealthAnswer is nil if the answer, a whole body, says SERVING.
func grpcHealthAnswer(body []byte) error {
	if len(body) < grpcHeaderLen || body[0] != 0 || uint64(binary.BigEndian.Uint32(body[1:])) != uint64(len(body)-grpcHeaderLen) {
		return errGRPCMessage
	}
	status := uint64(0)
	for b := body[grpcHeaderLen:]; len(b) > 0; {
		field, value, rest, ok := protoField(b)
		if !ok {
			return errGRPCMessage
		}
		if field == 1 {
			status = value // the last one counts
		}
		b = rest
	}
	if status == serving {
		return nil
	}
	if status < uint64(len(servingStatus)) {
		return errors.New("service is " + servingStatus[status])
	}
	return fmt.Errorf("service has the unknown status %s", strconv.FormatUint(status, 10))
}

// protoField cuts the first field off; value is that of a varint, 0 of another.
func protoField(b []byte) (field, value uint64, rest []byte, ok bool) {
	key, n := binary.Uvarint(b)
	if n <= 0 || key>>3 == 0 {
		return 0, 0, nil, false
	}
	b, field = b[n:], key>>3
	skip := uint64(0)
	switch key & 7 {
	case wireVarint:
		if value, n = binary.Uvarint(b); n <= 0 {
			return 0, 0, nil, false
		}
		return field, value, b[n:], true
	case wireFixed64:
		skip = 8
	case wireFixed32:
		skip = 4
	case wireBytes:
		if skip, n = binary.Uvarint(b); n <= 0 {
			return 0, 0, nil, false
		}
		b = b[n:]
	default:
		return 0, 0, nil, false
	}
	if field == 1 || skip > uint64(len(b)) {
		return 0, 0, nil, false
	}
	return field, 0, b[skip:], true
}
