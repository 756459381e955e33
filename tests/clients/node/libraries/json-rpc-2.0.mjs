// json-rpc-2.0, which leaves the carrier to its user, over a socket of ws.
import { JSONRPCClient, JSONRPCServer, JSONRPCServerAndClient } from 'json-rpc-2.0';
import WebSocket from 'ws';

export function open(url) {
  const socket = new WebSocket(`${url.replace('http', 'ws')}/rpc`, ['doorward.v1']);
  const notifications = [];
  const peer = new JSONRPCServerAndClient(
    new JSONRPCServer(),
    new JSONRPCClient((call) => socket.send(JSON.stringify(call))),
  );
  for (const method of ['auth.revoked', 'auth.expiring', 'system.draining', 'users.changed']) {
    peer.addMethod(method, (params) => {
      notifications.push({ method, params });
    });
  }
  socket.on('message', (text) => peer.receiveAndSend(JSON.parse(text)));
  const closed = new Promise((resolve) => socket.on('close', (code) => resolve({ notifications, code })));
  return new Promise((resolve, reject) => {
    socket.on('error', reject);
    socket.on('open', () =>
      resolve({
        call: (method, params) => peer.request(method, params),
        ended: () => closed,
        close: () => socket.close(),
      }),
    );
  });
}
