// rpc-websockets: notifications are events of the method's name.
import { Client } from 'rpc-websockets';

export function open(url) {
  const client = new Client(`${url.replace('http', 'ws')}/rpc`, { reconnect: false });
  const notifications = [];
  for (const method of ['auth.revoked', 'auth.expiring', 'system.draining', 'users.changed']) {
    client.on(method, (params) => notifications.push({ method, params }));
  }
  const closed = new Promise((resolve) => client.on('close', (code) => resolve({ notifications, code })));
  return new Promise((resolve, reject) => {
    client.on('error', reject);
    client.on('open', () =>
      resolve({
        call: (method, params) => client.call(method, params),
        ended: () => closed,
        close: () => client.close(),
      }),
    );
  });
}
