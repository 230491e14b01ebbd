// The JavaScript SDK as old code uses it, over both HTTP versions.

import { BedrockRuntimeClient, InvokeModelCommand } from "@aws-sdk/client-bedrock-runtime";
import { NodeHttpHandler } from "@smithy/node-http-handler";
import assert from "node:assert/strict";

import { encoded, stripes } from "./png.mjs";

export const MODEL = "stability.stable-diffusion-xl-v1";
export const PROMPTS = [{ text: "a strawberry on a white background, 3d model" }];

export const SHORT = { text_prompts: PROMPTS, init_image: encoded(stripes(64, 64)), image_strength: 0.9, steps: 10 };
export const LONG = { text_prompts: PROMPTS, width: 512, height: 512, steps: 50 };

// Known to the servers; see fleet.py.
const CREDENTIALS = { accessKeyId: "AKIDPENTIMENTOCLIENT", secretAccessKey: "clients-secret-that-no-log-may-hold" };
export const API_KEY = "clients-bearer-key-that-no-log-may-hold";

const { targets } = JSON.parse(process.env.PENTIMENTO_CLIENTS);

export const url = (server) => targets[server][0];

/** The SDK's own choice, which is HTTP/2, and HTTP/1.1 on request. */
export const TRANSPORTS = {
  "HTTP/2": {},
  "HTTP/1.1": { requestHandler: new NodeHttpHandler() },
};

/** A client for a server of the fleet. */
export function client(server, { credentials, ...options } = {}) {
  return new BedrockRuntimeClient({
    endpoint: url(server),
    region: "us-east-1",
    maxAttempts: 1,
    credentials: { ...CREDENTIALS, ...credentials },
    ...options,
  });
}

export const invoke = (body, options) => new InvokeModelCommand({ modelId: MODEL, body: JSON.stringify(body), ...options });

/** InvokeModel's picture, its answer checked as old code checks it. */
export async function draw(bedrock, body, options) {
  const reply = await bedrock.send(invoke(body, options));
  return { ...drawn(reply.body), reply };
}

/** The picture in an answer's JSON. */
export function drawn(bytes) {
  const { result, artifacts } = JSON.parse(new TextDecoder().decode(bytes));
  assert.equal(result, "success");
  assert.equal(artifacts.length, 1);
  assert.equal(artifacts[0].finishReason, "SUCCESS");
  return { file: Buffer.from(artifacts[0].base64, "base64"), seed: artifacts[0].seed };
}

/** A number in a server's metrics: the sum of the samples of this name. */
export async function metric(server, name) {
  const page = await (await fetch(`${url(server)}/metrics`)).text();
  const samples = page.split("\n").filter((line) => line.split(/[ {]/)[0] === name);
  return samples.reduce((sum, line) => sum + Number(line.split(" ").at(-1)), 0);
}

/** Waits until a metric has a value, and answers how many milliseconds that took. */
export async function until(server, name, value) {
  const start = Date.now();
  while ((await metric(server, name)) !== value) assert.ok(Date.now() - start < 20_000, `${name} is not ${value}`);
  return Date.now() - start;
}
