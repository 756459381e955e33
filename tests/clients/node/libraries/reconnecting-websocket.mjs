// reconnecting-websocket, which carries any text and connects again by itself, over ws.
import ReconnectingWebSocket from 'reconnecting-websocket';
import WebSocket from 'ws';

export function open(url) {
  const socket = new ReconnectingWebSocket(`${url.replace('http', 'ws')}/rpc`, 'doorward.v1', { WebSocket });
  const [waiting, notifications] = [new Map(), []];
  let next = 1;
  socket.addEventListener('message', ({ data }) => {
    const { id, method, params, error, result } = JSON.parse(data);
    if (method) return notifications.push({ method, params });
    const { resolve, reject } = waiting.get(id);
    waiting.delete(id);
    return error ? reject(error) : resolve(result);
  });
  const closed = new Promise((resolve) => {
    socket.addEventListener('close', ({ code }) => {
      // 4500 and above: the gateway says not to reconnect.
      if (code >= 4500) socket.close();
      resolve({ notifications, code });
    });
  });
  return {
    call: (method, params) =>
      new Promise((resolve, reject) => {
        waiting.set(next, { resolve, reject });
        socket.send(JSON.stringify({ jsonrpc: '2.0', id: next++, method, params }));
      }),
    ended: () => closed,
    close: () => socket.close(),
  };
}
