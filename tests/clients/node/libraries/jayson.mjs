// jayson over HTTP. A call without parameters has `params: []`, as the library's users write it.
import jayson from 'jayson/promise/index.js';

export function open(url) {
  const { hostname, port } = new URL(url);
  const headers = {};
  const client = jayson.Client.http({ hostname, port, path: '/rpc', headers });
  return {
    async call(method, params) {
      const { error, result } = await client.request(method, params ?? []).catch(refusal);
      if (error) throw error;
      return result;
    },
    signIn: (token) => {
      headers.authorization = `Bearer ${token}`;
    },
    close: () => {},
  };
}

// A status of an error rejects with the body as its message.
function refusal(error) {
  if (!Number.isInteger(error.code)) throw error;
  return JSON.parse(error.message);
}
