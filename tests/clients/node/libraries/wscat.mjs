// wscat, a program for people: calls are lines of its input, answers lines of its output. It tells of the connection only
// to a terminal, which script (of util-linux) gives it.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import readline from 'node:readline';
import { fileURLToPath } from 'node:url';

const WSCAT = fileURLToPath(new URL('../node_modules/wscat/bin/wscat', import.meta.url));

export async function open(url) {
  const command = `${process.execPath} ${WSCAT} --connect ${url.replace('http', 'ws')}/rpc --no-color`;
  const wscat = spawn('script', ['--quiet', '--flush', '--command', command, '/dev/null']);
  const [waiting, notifications] = [new Map(), []];
  let [next, connected, ended] = [1, null, null];
  const ready = new Promise((resolve) => (connected = resolve));
  const closed = new Promise((resolve) => (ended = resolve));
  readline.createInterface({ input: wscat.stdout }).on('line', (line) => {
    if (line.includes('Connected')) return connected();
    const disconnected = line.match(/Disconnected \(code: (\d+)/);
    if (disconnected) return ended({ notifications, code: Number(disconnected[1]) });
    // What is typed is shown, too.
    const received = line.match(/< (\{"jsonrpc".*\})/);
    if (!received) return undefined;
    const { id, method, params, error, result } = JSON.parse(received[1]);
    if (method) return notifications.push({ method, params });
    const { resolve, reject } = waiting.get(id);
    waiting.delete(id);
    return error ? reject(error) : resolve(result);
  });
  const failed = once(wscat, 'exit').then(() => Promise.reject(new Error('wscat ended')));
  failed.catch(() => {});
  await Promise.race([ready, failed]);
  return {
    call: (method, params) =>
      new Promise((resolve, reject) => {
        waiting.set(next, { resolve, reject });
        wscat.stdin.write(`${JSON.stringify({ jsonrpc: '2.0', id: next++, method, params })}\n`);
      }),
    ended: () => closed,
    close: () => wscat.kill(),
  };
}
