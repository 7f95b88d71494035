package clients

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"

	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/wgstack/wireguard"
)

// MongoClient returns a client for MongoDB servers in the tunnel. uri may begin
// with "mongodb://" or "mongodb+srv://".
func MongoClient(ctx context.Context, dev *wireguard.Device, uri string, opts ...*options.ClientOptions) (*mongo.Client, error) {
	// The driver would look up SRV and TXT records in the host's network.
	uri, err := expandSRV(ctx, dev, uri)
	if err != nil {
		return nil, err
	}
	through := options.Client().ApplyURI(uri).SetDialer(dev)
	return mongo.Connect(append(opts, through)...)
}

// expandSRV returns the "mongodb://" URI that a "mongodb+srv://" URI stands for
// at present. It returns other URIs as they are.
func expandSRV(ctx context.Context, dev *wireguard.Device, uri string) (string, error) {
	if !strings.HasPrefix(uri, "mongodb+srv://") {
		return uri, nil
	}
	u, err := url.Parse(uri)
	if err != nil {
		return "", err
	}
	_, servers, err := dev.Resolver().LookupSRV(ctx, "mongodb", "tcp", u.Hostname())
	if err != nil {
		return "", err
	}
	_, domain, _ := strings.Cut(u.Hostname(), ".")
	var hosts []string
	for _, s := range servers {
		host := strings.TrimSuffix(s.Target, ".")
		// The format demands it, so that forged records cannot name any server.
		if !strings.HasSuffix(host, "."+domain) {
			return "", fmt.Errorf("server %s is not in the domain %s", host, domain)
		}
		hosts = append(hosts, net.JoinHostPort(host, strconv.Itoa(int(s.Port))))
	}
	settings := url.Values{"tls": {"true"}}
	if texts, err := dev.Resolver().LookupTXT(ctx, u.Hostname()); err == nil {
		if err := override(settings, strings.Join(texts, "&")); err != nil {
			return "", err
		}
	}
	if err := override(settings, u.RawQuery); err != nil {
		return "", err
	}
	u.Scheme, u.Host, u.RawQuery = "mongodb", strings.Join(hosts, ","), settings.Encode()
	u.Path = "/" + strings.TrimPrefix(u.Path, "/")
	return u.String(), nil
}

// override sets what a query string sets.
func override(settings url.Values, query string) error {
	values, err := url.ParseQuery(query)
	for name, value := range values {
		settings[name] = value
	}
	return err
}
