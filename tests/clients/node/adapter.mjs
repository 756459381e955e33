// Lends a JSON-RPC library to the account's life in ../foreign_life.py: commands and answers are lines of JSON.
//
//   adapter.mjs LIBRARY URL
//
// A library's file exports `open(url)`, which gives {call, close, signIn?, ended?}: `call` resolves to the result and
// rejects with {code, message, data}, `ended` resolves to {notifications, code} once the gateway has closed the socket.
import readline from 'node:readline';

const [library, url] = process.argv.slice(2);
const { open } = await import(`./libraries/${library}.mjs`);
const clients = new Map();

async function answer({ act, client, method, params, token }) {
  if (act === 'open') {
    clients.set(client, await open(url));
    return {};
  }
  const opened = clients.get(client);
  switch (act) {
    case 'call':
      try {
        return { result: await opened.call(method, params) };
      } catch (error) {
        if (!Number.isInteger(error.code)) throw error;
        return { error: { code: error.code, message: error.message, data: error.data } };
      }
    case 'sign in':
      opened.signIn?.(token);
      return {};
    case 'ended':
      return await opened.ended();
    case 'close':
      clients.delete(client);
      await opened.close();
      return {};
  }
  throw new Error(`no such act: ${act}`);
}

for await (const line of readline.createInterface({ input: process.stdin })) {
  const told = await answer(JSON.parse(line)).catch((error) => ({ failed: String(error?.stack ?? error) }));
  process.stdout.write(`${JSON.stringify(told)}\n`);
}
process.exit(0);
