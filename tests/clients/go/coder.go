package main

import (
	"context"
	"encoding/json"
	"strings"

	"github.com/coder/websocket"
	"github.com/coder/websocket/wsjson"
)

// coder calls over a WebSocket of github.com/coder/websocket.
type coder struct {
	socket        *websocket.Conn
	next          int
	notifications []json.RawMessage
}

type frame struct {
	Id     *int            `json:"id"`
	Method string          `json:"method"`
	Error  json.RawMessage `json:"error"`
	Result json.RawMessage `json:"result"`
}

func openCoder(url string) (client, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	options := &websocket.DialOptions{Subprotocols: []string{"doorward.v1"}}
	socket, _, err := websocket.Dial(ctx, strings.Replace(url, "http", "ws", 1)+"/rpc", options)
	if err != nil {
		return nil, err
	}
	socket.SetReadLimit(1 << 20)
	return &coder{socket: socket}, nil
}

func (c *coder) call(method string, params json.RawMessage) (json.RawMessage, json.RawMessage, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	c.next++
	call := map[string]any{"jsonrpc": "2.0", "id": c.next, "method": method}
	if params != nil {
		call["params"] = params
	}
	if err := wsjson.Write(ctx, c.socket, call); err != nil {
		return nil, nil, err
	}
	for {
		read, err := c.read(ctx)
		if err != nil {
			return nil, nil, err
		}
		if read.Id != nil && *read.Id == c.next {
			return read.Result, read.Error, nil
		}
	}
}

// read gives the next frame; notifications are kept.
func (c *coder) read(ctx context.Context) (frame, error) {
	var text json.RawMessage
	var read frame
	if err := wsjson.Read(ctx, c.socket, &text); err != nil {
		return read, err
	}
	if err := json.Unmarshal(text, &read); err != nil {
		return read, err
	}
	if read.Method != "" {
		c.notifications = append(c.notifications, text)
	}
	return read, nil
}

func (c *coder) signIn(string) {}

func (c *coder) ended() ([]json.RawMessage, int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	for {
		if _, err := c.read(ctx); err != nil {
			if code := websocket.CloseStatus(err); code >= 0 {
				return c.notifications, int(code), nil
			}
			return nil, 0, err
		}
	}
}

func (c *coder) close() {
	_ = c.socket.Close(websocket.StatusNormalClosure, "")
}
