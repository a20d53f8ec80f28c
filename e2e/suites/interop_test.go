package suites

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/interop"

	testgrpc "google.golang.org/grpc/interop/grpc_testing"
)

// interopEnv makes the test binary run one interoperability case as a client, because
// google.golang.org/grpc/interop ends the process when a case fails. Its value is an
// interopCase as JSON.
const interopEnv = "PIKO_SUITES_INTEROP"

// interopCase is a case, where to connect, and which host to ask for.
type interopCase struct {
	Name, Addr, Host string
}

// interopCases are those of gRPC's interop-test-descriptions.md that need no credentials.
var interopCases = []struct {
	name string
	run  func(context.Context, *grpc.ClientConn)
}{
	{"empty_unary", testService(interop.DoEmptyUnaryCall)},
	{"large_unary", testService(interop.DoLargeUnaryCall)},
	{"client_streaming", testService(interop.DoClientStreaming)},
	{"server_streaming", testService(interop.DoServerStreaming)},
	{"ping_pong", testService(interop.DoPingPong)},
	{"empty_stream", testService(interop.DoEmptyStream)},
	{"cancel_after_begin", testService(interop.DoCancelAfterBegin)},
	{"cancel_after_first_response", testService(interop.DoCancelAfterFirstResponse)},
	{"timeout_on_sleeping_server", testService(interop.DoTimeoutOnSleepingServer)},
	{"custom_metadata", testService(interop.DoCustomMetadata)},
	{"status_code_and_message", testService(interop.DoStatusCodeAndMessage)},
	{"special_status_message", testService(interop.DoSpecialStatusMessage)},
	{"unimplemented_method", interop.DoUnimplementedMethod},
	{"unimplemented_service", unimplementedService},
}

func testService(run func(context.Context, testgrpc.TestServiceClient, ...grpc.CallOption)) func(context.Context, *grpc.ClientConn) {
	return func(ctx context.Context, cc *grpc.ClientConn) { run(ctx, testgrpc.NewTestServiceClient(cc)) }
}

func unimplementedService(ctx context.Context, cc *grpc.ClientConn) {
	interop.DoUnimplementedService(ctx, testgrpc.NewUnimplementedServiceClient(cc))
}

// runInteropCase is the main function of a client.
func runInteropCase(arg string) error {
	var c interopCase
	if err := json.Unmarshal([]byte(arg), &c); err != nil {
		return err
	}
	cc, err := grpc.NewClient("passthrough:///"+c.Addr, grpc.WithAuthority(c.Host), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer cc.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for _, known := range interopCases {
		if known.name == c.Name {
			known.run(ctx, cc)
			return nil
		}
	}
	return fmt.Errorf("no such case: %s", c.Name)
}

// TestInterop runs gRPC's interoperability cases.
func TestInterop(t *testing.T) {
	t.Parallel()
	everyUpstream(t, func(t *testing.T, p *path, serve serveGRPC) {
		serve(t, "interop", newTestServer(interop.NewTestServer()))
		for _, c := range interopCases {
			t.Run(c.name, func(t *testing.T) {
				runInterop(t, interopCase{c.name, p.addr("interop"), hostOf("interop" + p.suffix)})
			})
		}
	})
}

func runInterop(t *testing.T, c interopCase) {
	t.Helper()
	arg, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := command(self)
	cmd.Env = append(cmd.Env, interopEnv+"="+string(arg))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, strings.TrimSpace(string(out)))
	}
}
