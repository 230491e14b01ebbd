// TLS: HTTP/2 and HTTP/1.1 by ALPN, with a signature and with a bearer key.

import assert from "node:assert/strict";
import { after, describe, test } from "node:test";
import { connect } from "node:tls";

import { API_KEY, SHORT, TRANSPORTS, client, draw, url } from "./sdk.mjs";

for (const [transport, options] of Object.entries(TRANSPORTS)) {
  describe(`JavaScript over TLS and ${transport}`, () => {
    const clients = [];
    const to = (more) => clients[clients.push(client("tls", { ...options, ...more })) - 1];
    after(() => clients.forEach((one) => one.destroy()));

    test("a signed request", () => draw(to(), SHORT));

    test("a bearer key", () => draw(to({ token: { token: API_KEY }, authSchemePreference: ["httpBearerAuth"] }), SHORT));
  });
}

describe("ALPN", () => {
  const { hostname: host, port } = new URL(url("tls"));
  for (const [offered, chosen] of [
    [["h2"], "h2"],
    [["http/1.1"], "http/1.1"],
    [["h2", "http/1.1"], "h2"],
    [undefined, false],
  ]) {
    test(`${offered ?? "nothing"} offered, ${chosen || "nothing"} chosen`, async () => {
      const socket = connect({ host, port, ALPNProtocols: offered });
      await new Promise((resolve, reject) => socket.on("secureConnect", resolve).on("error", reject));
      assert.equal(socket.alpnProtocol, chosen);
      socket.destroy();
    });
  }
});
