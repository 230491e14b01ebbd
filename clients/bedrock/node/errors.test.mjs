// Errors as the SDK's exception classes.

import * as sdk from "@aws-sdk/client-bedrock-runtime";
import assert from "node:assert/strict";
import { after, describe, test } from "node:test";

import { API_KEY, LONG, MODEL, SHORT, TRANSPORTS, client, draw, invoke, metric, until } from "./sdk.mjs";

const stream = (body) =>
  new sdk.InvokeModelWithResponseStreamCommand({ modelId: MODEL, body: JSON.stringify(body) });

/** Checks name, class, status and message of what is thrown. Exceptions that no model knows are of the base class. */
async function refused(promise, name, status, text = "") {
  await assert.rejects(promise, (error) => {
    assert.equal(error.name, name, error.stack);
    assert.ok(error instanceof (sdk[name] ?? sdk.BedrockRuntimeServiceException), `${name} has another class`);
    assert.equal(error.$metadata.httpStatusCode, status);
    assert.ok(error.message.includes(text), error.message);
    return true;
  });
}

for (const [transport, options] of Object.entries(TRANSPORTS)) {
  describe(`JavaScript's errors over ${transport}`, () => {
    const clients = [];
    const to = (server, more) => clients[clients.push(client(server, { ...options, ...more })) - 1];
    after(() => clients.forEach((one) => one.destroy()));

    const validation = {
      "a missing key": [{}, "#: required key [text_prompts] not found"],
      "a value out of range": [{ ...SHORT, steps: 51 }, "#/steps: 51 is not less or equal to 50"],
      "an unknown name": [{ ...SHORT, style_preset: "cubist" }, "#/style_preset: cubist is not a valid enum value"],
      "a null": [{ ...SHORT, seed: null }, "#/seed: expected type: Integer, found: Null"],
      "base64 that is none": [{ ...SHORT, init_image: "?" }, "invalid_base64"],
      "a list": [[], "Malformed input request, please reformat"],
      "another model": [SHORT, "The provided model identifier is invalid.", { modelId: "anthropic.claude-v2" }],
      "another content": [SHORT, "The provided Content Type is invalid", { contentType: "text/plain" }],
      "another answer": [SHORT, "The provided Accept Type is invalid", { accept: "image/jpeg" }],
    };
    for (const [name, [body, text, input]] of Object.entries(validation)) {
      test(`ValidationException: ${name}`, () =>
        refused(to("plain").send(invoke(body, input)), "ValidationException", 400, text));
    }

    test("ValidationException: the stream", () =>
      refused(to("plain").send(stream({ ...SHORT, steps: 9 })), "ValidationException", 400, "#/steps"));

    test("ValidationException: a body that is too large", () =>
      refused(to("plain").send(invoke({ x: "x".repeat(26e6) })), "ValidationException", 413, "25000000"));

    test("UnrecognizedClientException", () => {
      const nobody = to("plain", { credentials: { accessKeyId: "AKIDNOBODY" } });
      return refused(nobody.send(invoke(SHORT)), "UnrecognizedClientException", 403, "The security token included");
    });

    test("InvalidSignatureException: a wrong secret", () => {
      const forger = to("plain", { credentials: { secretAccessKey: "wrong" } });
      return refused(forger.send(invoke(SHORT)), "InvalidSignatureException", 403, "does not match the signature");
    });

    test("InvalidSignatureException: a slow clock", () => {
      const late = to("plain", { systemClockOffset: -6 * 60_000 });
      return refused(late.send(invoke(SHORT)), "InvalidSignatureException", 403, "Signature expired: ");
    });

    test("InvalidSignatureException: a fast clock", () => {
      const early = to("plain", { systemClockOffset: 6 * 60_000 });
      return refused(early.send(invoke(SHORT)), "InvalidSignatureException", 403, "Signature not yet current: ");
    });

    test("a wrong clock is put right by the server's date", async () => {
      await draw(to("plain", { systemClockOffset: -3_600_000, maxAttempts: 2 }), SHORT);
    });

    const withBearerKey = (token) => to("plain", { token: { token }, authSchemePreference: ["httpBearerAuth"] });

    test("a bearer key", () => draw(withBearerKey(API_KEY), SHORT));

    test("AccessDeniedException: a wrong bearer key", () =>
      refused(withBearerKey("wrong").send(invoke(SHORT)), "AccessDeniedException", 403, "API Key is valid"));

    test("UnknownOperationException", () => {
      const messages = [{ role: "user", content: [{ text: "hello" }] }];
      const command = new sdk.ConverseCommand({ modelId: MODEL, messages });
      return refused(to("plain").send(command), "UnknownOperationException", 404, "no such operation");
    });

    test("ModelTimeoutException", () =>
      refused(to("impatient").send(invoke(LONG)), "ModelTimeoutException", 408, "Model has timed out"));

    test("ModelTimeoutException: a stream that has begun", async () => {
      // An exception that is the first event is thrown by `send` in some versions, and by the loop in others.
      await assert.rejects(
        async () => {
          const { body } = await to("late").send(stream(LONG));
          for await (const event of body) assert.fail(`an event: ${Object.keys(event)}`);
        },
        (error) => error instanceof sdk.ModelTimeoutException && error.message.includes("Model has timed out"),
      );
    });

    test("an answer that has begun ends with an error", async () => {
      const { body } = await to("late").send(invoke(LONG));
      const { result, error } = JSON.parse(new TextDecoder().decode(body));
      assert.deepEqual([result, error.name], ["error", "generation_error"]);
    });

    test("ThrottlingException, and a client that leaves", async () => {
      const leave = new AbortController();
      const asking = [];
      for (const seed of [1, 2]) {
        const command = invoke({ ...LONG, seed });
        asking.push(assert.rejects(to("narrow").send(command, { abortSignal: leave.signal }), { name: "AbortError" }));
        await until("narrow", "pentimento_jobs_running", 1);
        await until("narrow", "pentimento_queue_length", seed - 1);
      }
      await refused(to("narrow").send(invoke(SHORT)), "ThrottlingException", 429, "Too many requests");
      await refused(to("narrow").send(stream(SHORT)), "ThrottlingException", 429, "Too many requests");
      const before = await metric("narrow", "pentimento_cancelled_total");
      leave.abort();
      await Promise.all(asking);
      assert.ok((await until("narrow", "pentimento_jobs_running", 0)) < 1000, "the jobs were not broken off");
      assert.equal((await metric("narrow", "pentimento_cancelled_total")) - before, 2);
    });

    test("signs of life", async () => {
      const { body } = await to("beating").send(stream({ ...LONG, steps: 20 }));
      const events = [];
      for await (const event of body) events.push(Object.keys(event));
      assert.deepEqual(events, [["chunk"]]);
      await draw(to("beating"), { ...LONG, steps: 20 });
    });
  });
}
