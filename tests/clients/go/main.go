// Command foreignclients lends two Go libraries to the account's life in ../foreign_life.py: commands and answers are
// lines of JSON, as ../node/adapter.mjs has them.
//
//	foreignclients ybbus|coder URL
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"time"
)

// timeout is how long anything may take.
const timeout = 10 * time.Second

// client is one signed-in or anonymous user of the gateway.
type client interface {
	// call gives the result, or the error of the gateway as it came; err is a failure of anything else.
	call(method string, params json.RawMessage) (result, refusal json.RawMessage, err error)
	signIn(token string)
	// ended waits until the gateway has closed the connection.
	ended() (notifications []json.RawMessage, code int, err error)
	close()
}

type command struct {
	Act    string          `json:"act"`
	Client int             `json:"client"`
	Method string          `json:"method"`
	Params json.RawMessage `json:"params"`
	Token  string          `json:"token"`
}

func main() {
	open := map[string]func(url string) (client, error){"ybbus": openYbbus, "coder": openCoder}[os.Args[1]]
	clients := map[int]client{}
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var given command
		told, err := map[string]any{}, json.Unmarshal(lines.Bytes(), &given)
		if err == nil {
			told, err = answer(open, clients, given)
		}
		if err != nil {
			told = map[string]any{"failed": err.Error()}
		}
		if err := json.NewEncoder(os.Stdout).Encode(told); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}

func answer(open func(string) (client, error), clients map[int]client, given command) (map[string]any, error) {
	told := map[string]any{}
	switch given.Act {
	case "open":
		opened, err := open(os.Args[2])
		clients[given.Client] = opened
		return told, err
	case "call":
		result, refusal, err := clients[given.Client].call(given.Method, given.Params)
		if refusal != nil {
			told["error"] = refusal
		} else {
			told["result"] = result
		}
		return told, err
	case "sign in":
		clients[given.Client].signIn(given.Token)
	case "ended":
		notifications, code, err := clients[given.Client].ended()
		told["notifications"], told["code"] = notifications, code
		return told, err
	case "close":
		clients[given.Client].close()
		delete(clients, given.Client)
	default:
		return nil, fmt.Errorf("no such act: %s", given.Act)
	}
	return told, nil
}
