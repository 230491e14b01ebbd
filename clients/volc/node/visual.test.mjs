// `@volcengine/openapi` from npm, as old code uses it. It never throws for an answer: errors are looked at by code.

import { Service, Signer } from "@volcengine/openapi";
import assert from "node:assert/strict";
import { test } from "node:test";

import { encoded, stripes } from "../../bedrock/node/png.mjs";

const { targets } = JSON.parse(process.env.PENTIMENTO_CLIENTS);
const host = targets.plain[0].split("//")[1];
const keys = { accessKeyId: "AKIDPENTIMENTOCLIENT", secretKey: "clients-secret-that-no-log-may-hold" };
const KEY = "img2img_pastel_boys_style_usage";
const SHORT = { req_key: KEY, binary_data_base64: [encoded(stripes(64, 64))], ddim_steps: 4, long_resolution: 256 };

const service = (more = {}) =>
  new Service({ host, protocol: "http:", serviceName: "cv", region: "cn-north-1", defaultVersion: "2022-08-31", ...keys, ...more });
const ask = (action, body, more) => service(more).createJSONAPI(action)(body, { timeout: 300000 });

test("a picture with a Chinese prompt", async () => {
  const answer = await ask("CVProcess", { ...SHORT, prompt: "石膏像" });
  assert.equal(answer.code, 10000, JSON.stringify(answer).slice(0, 300));
  const file = Buffer.from(answer.data.binary_data_base64[0], "base64");
  assert.deepEqual([...file.subarray(0, 3)], [0xff, 0xd8, 0xff]);
});

test("the asynchronous pair", async () => {
  const { data } = await ask("CVSync2AsyncSubmitTask", SHORT);
  const end = Date.now() + 120000;
  for (;;) {
    const answer = await ask("CVSync2AsyncGetResult", { req_key: KEY, task_id: data.task_id });
    assert.equal(answer.code, 10000);
    if (answer.data.status === "done") {
      assert.equal(answer.data.binary_data_base64.length, 1);
      return;
    }
    assert.ok(Date.now() < end, answer.data.status);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
});

test("errors by code", async () => {
  assert.equal((await ask("CVProcess", { ...SHORT, req_key: "nosuch" })).code, 50200);
  assert.equal((await ask("CVProcess", { req_key: KEY })).code, 50206);
  const wrong = await ask("CVProcess", SHORT, { secretKey: "wrong" });
  assert.equal(wrong.ResponseMetadata.Error.Code, "SignatureDoesNotMatch");
});

test("the signer alone, with and without the body", async () => {
  const body = JSON.stringify(SHORT);
  const send = async (signed) => {
    const request = {
      region: "cn-north-1",
      method: "POST",
      params: { Action: "CVProcess", Version: "2022-08-31" },
      headers: { host },
      ...signed,
    };
    new Signer(request, "cv").addAuthorization(keys);
    const { host: _, ...headers } = request.headers;
    const url = `http://${host}/?Action=CVProcess&Version=2022-08-31`;
    const reply = await fetch(url, { method: "POST", headers: { ...headers, "content-type": "application/json" }, body });
    return reply.json();
  };
  assert.equal((await send({ body })).code, 10000);
  assert.equal((await send({})).ResponseMetadata.Error.Code, "SignatureDoesNotMatch");
});
