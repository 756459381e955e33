// @open-rpc/client-js over a WebSocket.
import { Client, RequestManager, WebSocketTransport } from '@open-rpc/client-js';

export async function open(url) {
  const transport = new WebSocketTransport(`${url.replace('http', 'ws')}/rpc`);
  const client = new Client(new RequestManager([transport]));
  const notifications = [];
  client.onNotification(({ method, params }) => notifications.push({ method, params }));
  // The library tells nobody of a close; its socket does.
  const closed = new Promise((resolve) => {
    transport.connection.addEventListener('close', ({ code }) => resolve({ notifications, code }));
  });
  return {
    call: (method, params) => client.request({ method, params: params ?? [] }),
    ended: () => closed,
    close: () => client.close(),
  };
}
