// A provider as somebody else wrote it: the npm package oidc-provider, set up
// strictly. It is started by the Go tests, which say in one argument where the
// package is, and in one line of standard input what the provider is to be; it
// answers with its address on one line, and ends when standard input does.
//
// Whoever signs in here is who they say: any name, any password.

import * as http from 'node:http';
import { createInterface } from 'node:readline';
import { pathToFileURL } from 'node:url';

// What the package asks of a newer Node.
URL.parse ??= (url, base) => {
  try {
    return new URL(url, base);
  } catch {
    return null;
  }
};

const [directory] = process.argv.slice(2);
const { default: Provider } = await import(pathToFileURL(`${directory}/node_modules/oidc-provider/lib/index.js`));

const lines = createInterface({ input: process.stdin });
const wanted = JSON.parse(await new Promise((resolve) => { lines.once('line', resolve); }));
lines.once('close', () => process.exit(0));

const server = http.createServer();
await new Promise((resolve) => { server.listen(wanted.port ?? 0, '127.0.0.1', resolve); });
const issuer = `http://127.0.0.1:${server.address().port}`;

const provider = new Provider(issuer, {
  clients: wanted.clients,
  cookies: { keys: ['only for tests'] },
  claims: {
    openid: ['sub'],
    email: ['email', 'email_verified'],
    profile: ['name', 'roles'],
  },
  conformIdTokenClaims: wanted.thinIDToken ?? false,
  features: {
    backchannelLogout: { enabled: true },
    dPoP: { enabled: true, nonceSecret: Buffer.alloc(32, 7), requireNonce: () => wanted.dpopNonces ?? true },
    rpInitiatedLogout: { enabled: true },
    revocation: { enabled: true },
    userinfo: { enabled: true },
  },
  // The tests' own logout endpoints are on loopback, which the package keeps
  // its requests away from.
  fetch: (url, { dispatcher, ...options }) => globalThis.fetch(url, options),
  findAccount: (ctx, id) => ({
    accountId: id,
    claims: () => ({
      sub: id,
      email: id.includes('@') ? id : `${id}@example.com`,
      email_verified: true,
      name: id,
      roles: id.startsWith('admin') ? ['admin'] : ['user'],
    }),
  }),
  issueRefreshToken: (ctx, client) => client.grantTypeAllowed('refresh_token'),
  pkce: { required: () => true },
  rotateRefreshToken: wanted.rotate ?? true,
  scopes: ['openid', 'email', 'profile', 'offline_access'],
  ttl: {
    AccessToken: wanted.accessSeconds ?? 300,
    AuthorizationCode: 60,
    Grant: 86400,
    IdToken: 300,
    Interaction: 600,
    RefreshToken: 86400,
    Session: 86400,
  },
});
provider.on('server_error', (ctx, error) => console.error('server_error', error));
server.on('request', provider.callback());
console.log(JSON.stringify({ url: issuer, version: wanted.version }));
