module github.com/wgstack/wireguard/bench

go 1.26.3

require github.com/wgstack/wireguard v0.0.0

replace github.com/wgstack/wireguard => ../
