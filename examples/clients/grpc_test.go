package clients

import (
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
)

func TestGRPCClient(t *testing.T) {
	near, far := newTunnel(t, "api.internal. 60 IN A 10.0.0.2")
	server := grpc.NewServer()
	state := health.NewServer()
	grpc_health_v1.RegisterHealthServer(server, state)
	go server.Serve(listen(t, far, ":50051"))
	defer server.Stop()

	conn, err := GRPCClient(near, "api.internal:50051", grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := grpc_health_v1.NewHealthClient(conn)
	answer, err := client.Check(limited(t), &grpc_health_v1.HealthCheckRequest{})
	if err != nil || answer.Status != grpc_health_v1.HealthCheckResponse_SERVING {
		t.Fatalf("check: %v, %v", answer, err)
	}

	// A stream, whose messages the server decides when to send.
	stream, err := client.Watch(limited(t), &grpc_health_v1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []grpc_health_v1.HealthCheckResponse_ServingStatus{
		grpc_health_v1.HealthCheckResponse_SERVING,
		grpc_health_v1.HealthCheckResponse_NOT_SERVING,
	} {
		answer, err := stream.Recv()
		if err != nil || answer.Status != want {
			t.Fatalf("watch: %v, %v; want %v", answer, err, want)
		}
		state.SetServingStatus("", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	}
}
