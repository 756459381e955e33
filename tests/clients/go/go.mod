module doorward.example/foreignclients

go 1.23

require (
	github.com/coder/websocket v1.8.15
	github.com/ybbus/jsonrpc/v3 v3.1.6
)
