// Score images with an exported model and onnxruntime-node.
//
//   node node.mjs MODEL.onnx THRESHOLD IMAGE.ppm...
//
// Each image is a binary PPM (P6, 8 bits) of the size that the model takes.

import { readFile } from "node:fs/promises";
import ort from "onnxruntime-node";

async function readPpm(path) {
  const bytes = await readFile(path);
  const header = /^P6\s+(\d+)\s+(\d+)\s+255\s/.exec(bytes.subarray(0, 64).toString("latin1"));
  if (!header) throw new Error(`${path}: not a binary PPM of 8 bits`);
  const [width, height] = [Number(header[1]), Number(header[2])];
  const pixels = bytes.subarray(header[0].length, header[0].length + height * width * 3);
  if (pixels.length < height * width * 3) throw new Error(`${path}: cut short`);
  return new ort.Tensor("float32", Float32Array.from(pixels), [1, height, width, 3]);
}

const [model, threshold, ...images] = process.argv.slice(2);
const session = await ort.InferenceSession.create(model);
for (const path of images) {
  const { score } = await session.run({ image: await readPpm(path) }, ["score"]);
  const verdict = score.data[0] > Number(threshold) ? "anomalous" : "good";
  console.log(`${verdict} ${score.data[0]} ${path}`);
}
