// PNG files of eight bits a channel, as far as the tests need them. A picture: width, height, channels, data.

import assert from "node:assert/strict";
import zlib, { deflateSync, inflateSync } from "node:zlib";

const SIGNATURE = Buffer.from([137, 80, 78, 71, 13, 10, 26, 10]);
const COLOR_TYPE = { 1: 0, 3: 2, 4: 6 };
const CHANNELS = { 0: 1, 2: 3, 6: 4 };

/** A picture from a function of x and y that answers its channels. */
export function picture(width, height, channelsAt) {
  const pixels = [];
  for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) pixels.push(channelsAt(x, y));
  return { width, height, channels: pixels[0].length, data: Buffer.from(pixels.flat()) };
}

/** A picture in which no two neighbours are equal. */
export const stripes = (width, height) =>
  picture(width, height, (x, y) => [(7 * x + 3 * y) % 256, (5 * x + 11 * y) % 256, (x * y) % 256]);

export const inside = ([left, top, right, bottom], x, y) => x >= left && x < right && y >= top && y < bottom;

/** A mask with a box of one value on a ground of another. */
export const boxMask = (width, height, box, value = 255, ground = 0) =>
  picture(width, height, (x, y) => [inside(box, x, y) ? value : ground]);

/** The first three channels of a pixel. */
export const pixel = ({ width, channels, data }, x, y) => {
  const start = (y * width + x) * channels;
  return [...data.subarray(start, start + Math.min(channels, 3))];
};

export const encoded = (image) => png(image).toString("base64");

export function png({ width, height, channels, data }) {
  const head = Buffer.alloc(13);
  head.writeUInt32BE(width, 0);
  head.writeUInt32BE(height, 4);
  head.set([8, COLOR_TYPE[channels], 0, 0, 0], 8);
  const lines = [];
  for (let y = 0; y < height; y++) lines.push(Buffer.of(0), data.subarray(y * width * channels, (y + 1) * width * channels));
  const pixels = deflateSync(Buffer.concat(lines));
  return Buffer.concat([SIGNATURE, chunk("IHDR", head), chunk("IDAT", pixels), chunk("IEND", Buffer.alloc(0))]);
}

export function decode(file) {
  assert.deepEqual(file.subarray(0, 8), SIGNATURE, "no PNG file");
  const chunks = [...chunksOf(file)];
  const head = chunks.find(({ type }) => type === "IHDR").content;
  const [width, height, depth, colorType] = [head.readUInt32BE(0), head.readUInt32BE(4), head[8], head[9]];
  assert.deepEqual([depth, head[12]], [8, 0], "not eight bits a channel, or interlaced");
  const pixels = chunks.filter(({ type }) => type === "IDAT").map(({ content }) => content);
  const channels = CHANNELS[colorType];
  return { width, height, channels, data: unfiltered(inflateSync(Buffer.concat(pixels)), width, height, channels) };
}

function* chunksOf(file) {
  for (let at = 8; at < file.length; ) {
    const length = file.readUInt32BE(at);
    yield { type: file.toString("latin1", at + 4, at + 8), content: file.subarray(at + 8, at + 8 + length) };
    at += length + 12;
  }
}

function unfiltered(lines, width, height, channels) {
  const stride = width * channels;
  const data = Buffer.alloc(stride * height);
  for (let y = 0; y < height; y++) {
    const filter = lines[y * (stride + 1)];
    for (let i = 0; i < stride; i++) {
      const at = y * stride + i;
      const left = i >= channels ? data[at - channels] : 0;
      const up = y > 0 ? data[at - stride] : 0;
      const corner = i >= channels && y > 0 ? data[at - stride - channels] : 0;
      const guess = [0, left, up, (left + up) >> 1, paeth(left, up, corner)][filter];
      data[at] = lines[y * (stride + 1) + 1 + i] + guess;
    }
  }
  return data;
}

function paeth(left, up, corner) {
  const guess = left + up - corner;
  const [a, b, c] = [left, up, corner].map((value) => Math.abs(guess - value));
  return a <= b && a <= c ? left : b <= c ? up : corner;
}

function chunk(type, content) {
  const named = Buffer.concat([Buffer.from(type, "latin1"), content]);
  const [length, sum] = [Buffer.alloc(4), Buffer.alloc(4)];
  length.writeUInt32BE(content.length);
  sum.writeUInt32BE(crc32(named));
  return Buffer.concat([length, named, sum]);
}

/** Node has it since version 20.15. */
const crc32 =
  zlib.crc32 ??
  ((bytes) => {
    let crc = ~0;
    for (const byte of bytes) {
      crc ^= byte;
      for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
    }
    return ~crc >>> 0;
  });
