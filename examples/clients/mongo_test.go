package clients

import (
	"encoding/binary"
	"io"
	"net"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"go.mongodb.org/mongo-driver/v2/x/mongo/driver/wiremessage"
)

// TestMongoClient uses a server that knows the two commands that a connection
// needs: Debian has no MongoDB to test against.
func TestMongoClient(t *testing.T) {
	near, far := newTunnel(t,
		"_mongodb._tcp.cluster.internal. 60 IN SRV 0 0 27018 db.internal.",
		`cluster.internal. 60 IN TXT "authSource=here&replicaSet=set"`,
		"db.internal. 60 IN A 10.0.0.2",
	)
	serveMongo(t, listen(t, far, ":27018"))

	ctx := limited(t)
	version := options.Client().SetServerAPIOptions(options.ServerAPI(options.ServerAPIVersion1))
	client, err := MongoClient(ctx, near, "mongodb+srv://cluster.internal/?tls=false&replicaSet=", version)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Disconnect(ctx)
	if err := client.Ping(ctx, nil); err != nil {
		t.Error(err)
	}
}

func TestExpandSRV(t *testing.T) {
	near, _ := newTunnel(t,
		"_mongodb._tcp.cluster.internal. 60 IN SRV 0 0 27018 a.internal.",
		"_mongodb._tcp.cluster.internal. 60 IN SRV 1 0 27017 b.internal.",
		`cluster.internal. 60 IN TXT "authSource=here&replicaSet=set"`,
		"_mongodb._tcp.forged.internal. 60 IN SRV 0 0 27017 other.example.",
	)
	for _, test := range []struct{ uri, want string }{
		{"mongodb://a:1,b:2/", "mongodb://a:1,b:2/"},
		{
			"mongodb+srv://name:pass%40word@cluster.internal/base?replicaSet=mine",
			"mongodb://name:pass%40word@a.internal:27018,b.internal:27017/base?authSource=here&replicaSet=mine&tls=true",
		},
		{"mongodb+srv://cluster.internal", "mongodb://a.internal:27018,b.internal:27017/?authSource=here&replicaSet=set&tls=true"},
		{"mongodb+srv://forged.internal", ""},
		{"mongodb+srv://none.internal", ""},
	} {
		got, err := expandSRV(limited(t), near, test.uri)
		if got != test.want || (err != nil) != (test.want == "") {
			t.Errorf("%s: %s, %v; want %s", test.uri, got, err, test.want)
		}
	}
}

// serveMongo answers the commands hello and ping, which a client sends as
// messages of the type OP_MSG with one document.
func serveMongo(t *testing.T, l net.Listener) {
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				for answerMongo(t, conn) == nil {
				}
			}()
		}
	}()
}

// answerMongo reads one message and answers it.
func answerMongo(t *testing.T, conn net.Conn) error {
	head := make([]byte, 4)
	if _, err := io.ReadFull(conn, head); err != nil {
		return err
	}
	message := make([]byte, binary.LittleEndian.Uint32(head))
	copy(message, head)
	if _, err := io.ReadFull(conn, message[4:]); err != nil {
		return err
	}
	_, id, _, opcode, rest, _ := wiremessage.ReadHeader(message)
	if opcode != wiremessage.OpMsg {
		t.Errorf("a message of type %v", opcode)
	}
	_, rest, _ = wiremessage.ReadMsgFlags(rest)
	_, rest, _ = wiremessage.ReadMsgSectionType(rest)
	command, _, ok := wiremessage.ReadMsgSectionSingleDocument(rest)
	if !ok {
		t.Errorf("a message without a document: %x", message)
	}
	answer := bson.D{{Key: "ok", Value: 1}}
	if command.Index(0).Key() == "hello" {
		answer = append(answer, bson.D{
			{Key: "isWritablePrimary", Value: true},
			{Key: "minWireVersion", Value: 0},
			{Key: "maxWireVersion", Value: 21},
			{Key: "maxBsonObjectSize", Value: 16 << 20},
			{Key: "maxMessageSizeBytes", Value: 48 << 20},
			{Key: "maxWriteBatchSize", Value: 1000},
		}...)
	}
	document, err := bson.Marshal(answer)
	if err != nil {
		return err
	}
	start, reply := wiremessage.AppendHeaderStart(nil, 0, id, wiremessage.OpMsg)
	reply = wiremessage.AppendMsgFlags(reply, 0)
	reply = wiremessage.AppendMsgSectionType(reply, wiremessage.SingleDocument)
	reply = append(reply, document...)
	binary.LittleEndian.PutUint32(reply[start:], uint32(len(reply)))
	_, err = conn.Write(reply)
	return err
}
