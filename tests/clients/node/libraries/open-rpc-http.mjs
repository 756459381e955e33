// @open-rpc/client-js over HTTP. A call without parameters has `params: []`, as in the library's README.
import { Client, HTTPTransport, RequestManager } from '@open-rpc/client-js';

export function open(url) {
  const connect = (headers) => new Client(new RequestManager([new HTTPTransport(`${url}/rpc`, { headers })]));
  let client = connect({});
  return {
    call: (method, params) => client.request({ method, params: params ?? [] }).catch(refusal),
    signIn: (token) => {
      client = connect({ authorization: `Bearer ${token}` });
    },
    close: () => client.close(),
  };
}

// An answer without the call's id, as that to a token which is not good, rejects with the whole body in its data.
function refusal(error) {
  const body = error.data?.data;
  throw typeof body === 'string' ? JSON.parse(body).error : error;
}
