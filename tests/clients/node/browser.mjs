// Pages in Chromium, of several origins, which call the gateway as apps do: with fetch and WebSocket alone.
//
//   browser.mjs URL GATEWAY     DOORWARD_ALLOWED_ORIGINS names the origin that this program serves pages at
//
// GATEWAY is not used: a page makes no admin.
import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import http from 'node:http';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { pathToFileURL } from 'node:url';

import { chromium } from 'playwright-core';

const [gateway] = process.argv.slice(2);
const allowed = process.env.DOORWARD_ALLOWED_ORIGINS;
const PASSWORD = 'plenty of tea at four';

// What runs in a page, and as the script of a worker. Nothing of it is shared with this program.
const APP = `
async function call(gateway, method, params, token) {
  const headers = { 'content-type': 'application/json', traceparent: '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01' };
  if (token) headers.authorization = 'Bearer ' + token;
  const body = JSON.stringify({ jsonrpc: '2.0', id: 1, method, params });
  const response = await fetch(gateway + '/rpc', { method: 'POST', headers, body });
  return (await response.json()).result;
}
function socketCall(gateway, token, method, params) {
  return new Promise((resolve) => {
    const socket = new WebSocket(gateway.replace('http', 'ws') + '/rpc', ['doorward.v1', 'bearer.' + token]);
    socket.onopen = () => socket.send(JSON.stringify({ jsonrpc: '2.0', id: 1, method, params }));
    socket.onmessage = ({ data }) => { resolve(JSON.parse(data).result); socket.close(); };
    socket.onclose = ({ code }) => resolve('closed with ' + code);
  });
}
async function life(gateway, username) {
  const person = { username, email: username + '@example.org', password: '${PASSWORD}' };
  await call(gateway, 'auth.register', person);
  const { tokens } = await call(gateway, 'auth.login', { login: username, password: person.password });
  const patch = { bio: 'from ' + self.origin };
  await call(gateway, 'users.update', { username: 'me', patch }, tokens.access_token);
  return socketCall(gateway, tokens.access_token, 'users.get', { username: 'me' });
}
`;
const WORKER = `${APP}
onmessage = async ({ data }) => postMessage(await life(data.gateway, data.username).catch(String));
`;

const steps = {
  async 'a page of an allowed origin lives an account’s life'() {
    const { user } = await inPage(`${allowed}/`, life, 'allowed');
    assert.equal(user.bio, `from ${allowed}`);
  },
  async 'a worker of an allowed origin does, too'() {
    const { user } = await inPage(`${allowed}/`, lifeInWorker, 'worker');
    assert.equal(user.bio, `from ${allowed}`);
  },
  async 'a page of the gateway’s own origin does, too'() {
    const { user } = await inPage(`${gateway}/healthz`, life, 'own');
    assert.equal(user.bio, `from ${gateway}`);
  },
  async 'a page of another origin reaches nothing'() {
    assert.equal(await inPage(`${foreign}/`, reaches), 'fetch refused, closed with 1006');
  },
  async 'a page from a file reaches nothing'() {
    assert.equal(await inPage(file, reaches), 'fetch refused, closed with 1006');
  },
};

const life = ({ app, gateway, username }) => new Function(`${app}; return life`)()(gateway, username);
const reaches = async ({ app, gateway }) => {
  const { call, socketCall } = new Function(`${app}; return { call, socketCall }`)();
  const ping = await call(gateway, 'system.ping', {}).then(
    () => 'fetch answered',
    () => 'fetch refused',
  );
  return `${ping}, ${await socketCall(gateway, 'x', 'system.ping', {})}`;
};
const lifeInWorker = ({ gateway, username }) =>
  new Promise((resolve) => {
    const worker = new Worker('/worker.js');
    worker.onmessage = ({ data }) => resolve(data);
    worker.onerror = ({ message }) => resolve(message);
    worker.postMessage({ gateway, username });
  });

async function inPage(url, script, username) {
  const page = await browser.newPage();
  try {
    await page.goto(url);
    return await page.evaluate(script, { app: APP, gateway, username });
  } finally {
    await page.close();
  }
}

function serve(port) {
  const server = http.createServer((request, response) => {
    const isWorker = request.url === '/worker.js';
    response.setHeader('content-type', isWorker ? 'text/javascript' : 'text/html');
    response.end(isWorker ? WORKER : '<!doctype html><title>a page</title>');
  });
  return new Promise((resolve) => server.listen(port, '127.0.0.1', () => resolve(server)));
}

const servers = [await serve(new URL(allowed).port), await serve(0)];
const foreign = `http://127.0.0.1:${servers[1].address().port}`;
const folder = await mkdtemp(path.join(tmpdir(), 'pages-'));
const file = pathToFileURL(path.join(folder, 'page.html')).href;
await writeFile(path.join(folder, 'page.html'), '<!doctype html><title>a file</title>');
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--disable-background-networking', '--disable-sync'],
});

let [passed, failed] = [0, 0];
for (const [name, step] of Object.entries(steps)) {
  try {
    await step();
    passed += 1;
    console.log(`ok     ${name}`);
  } catch (error) {
    failed += 1;
    console.log(`FAILED ${name}\n${error.stack}`);
  }
}
await browser.close();
for (const server of servers) server.close();
await rm(folder, { recursive: true });
console.log(`${passed} passed, ${failed} failed`);
process.exitCode = failed || !passed ? 1 : 0;
