// The three operations and the stream.

import { InvokeModelWithResponseStreamCommand } from "@aws-sdk/client-bedrock-runtime";
import assert from "node:assert/strict";
import { after, describe, test } from "node:test";

import { boxMask, decode, encoded, inside, picture, pixel, stripes } from "./png.mjs";
import { MODEL, PROMPTS, SHORT, TRANSPORTS, client, draw, drawn, invoke } from "./sdk.mjs";

const BOX = [40, 30, 104, 94];
const INIT = stripes(150, 110);

for (const [transport, options] of Object.entries(TRANSPORTS)) {
  describe(`JavaScript over ${transport}`, () => {
    const bedrock = client("plain", options);
    after(() => bedrock.destroy());

    const ask = (body, input) => draw(bedrock, { text_prompts: PROMPTS, steps: 10, ...body }, input);

    test("the transport is the one meant", async () => {
      await ask(SHORT);
      const { handlerProtocol } = bedrock.config.requestHandler.metadata;
      assert.equal(handlerProtocol, transport === "HTTP/2" ? "h2" : "http/1.1");
    });

    test("text to image", async () => {
      const { file, seed, reply } = await ask({ width: 512, height: 640, seed: 42 });
      const { width, height } = decode(file);
      assert.deepEqual([width, height, seed, reply.contentType], [512, 640, 42, "application/json"]);
      assert.match(reply.$metadata.requestId, /^[0-9a-f]{8}-/);
    });

    test("a seed draws the same picture again, and seed 0 another one", async () => {
      const [one, other] = [await ask({ ...SHORT, seed: 5 }), await ask({ ...SHORT, seed: 5 })];
      assert.deepEqual(decode(one.file), decode(other.file));
      const [random, again] = [await ask({ ...SHORT, seed: 0 }), await ask(SHORT)];
      assert.notEqual(random.seed, again.seed);
      assert.ok(random.seed > 0 && random.seed < 2 ** 32);
    });

    for (const mode of [
      { init_image_mode: "IMAGE_STRENGTH", image_strength: 0.6 },
      { init_image_mode: "STEP_SCHEDULE", step_schedule_start: 0.4, step_schedule_end: 0.01 },
    ]) {
      test(`image to image by ${mode.init_image_mode}`, async () => {
        const { width, height } = decode((await ask({ init_image: encoded(INIT), ...mode })).file);
        assert.deepEqual([width, height], [INIT.width, INIT.height]);
      });
    }

    const transparent = picture(INIT.width, INIT.height, (x, y) => [...pixel(INIT, x, y), inside(BOX, x, y) ? 0 : 255]);
    const maskings = {
      MASK_IMAGE_WHITE: { init_image: encoded(INIT), mask_image: encoded(boxMask(INIT.width, INIT.height, BOX)) },
      MASK_IMAGE_BLACK: { init_image: encoded(INIT), mask_image: encoded(boxMask(INIT.width, INIT.height, BOX, 0, 255)) },
      INIT_IMAGE_ALPHA: { init_image: encoded(transparent) },
    };
    for (const [mask_source, pictures] of Object.entries(maskings)) {
      test(`masking by ${mask_source}`, async () => {
        const repainted = decode((await ask({ mask_source, seed: 11, ...pictures })).file);
        assert.deepEqual([repainted.width, repainted.height], [INIT.width, INIT.height]);
        let changed = 0;
        for (let y = 0; y < INIT.height; y++) {
          for (let x = 0; x < INIT.width; x++) {
            const same = String(pixel(repainted, x, y)) === String(pixel(INIT, x, y));
            if (inside(BOX, x, y)) changed += same ? 0 : 1;
            else assert.ok(same, `the kept pixel ${x}, ${y} differs`);
          }
        }
        assert.ok(changed > 64 * 64 * 0.9, "the masked part was hardly repainted");
      });
    }

    test("the stream is one chunk that is the whole answer", async () => {
      const input = { modelId: MODEL, body: JSON.stringify({ ...SHORT, seed: 21 }) };
      const reply = await bedrock.send(new InvokeModelWithResponseStreamCommand(input));
      const chunks = [];
      for await (const event of reply.body) chunks.push(event.chunk.bytes);
      assert.deepEqual([chunks.length, reply.contentType], [1, "application/json"]);
      const [streamed, whole] = [drawn(Buffer.concat(chunks)), await ask({ ...SHORT, seed: 21 })];
      assert.deepEqual(decode(streamed.file), decode(whole.file));
    });

    test("a bare picture where that is accepted", async () => {
      const reply = await bedrock.send(invoke(SHORT, { accept: "image/png" }));
      assert.deepEqual([reply.contentType, decode(Buffer.from(reply.body)).width], ["image/png", 64]);
    });

    test("an id with a version, and an ARN", async () => {
      const arn = `arn:aws:bedrock:us-east-1::foundation-model/${MODEL}:0`;
      for (const modelId of [`${MODEL}:0`, arn]) await ask(SHORT, { modelId });
    });

    test("eight at once", async () => {
      const seeds = [1, 2, 3, 4, 5, 6, 7, 8];
      const pictures = await Promise.all(seeds.map((seed) => ask({ ...SHORT, seed })));
      assert.deepEqual(pictures.map(({ seed }) => seed), seeds);
    });
  });
}
