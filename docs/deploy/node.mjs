// Score images with an exported model and onnxruntime-node.
//
//   node node.mjs MODEL.onnx THRESHOLD MAP_THRESHOLD IMAGE.ppm...
//
// Each image is a binary PPM (P6, 8 bits) of the size that the model takes. Prints one line for
// each: the decision, the score, the number of anomalous pixels, and the name.

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

// The anomalous pixels. In a good image there are none. In an anomalous one those whose map lies
// above the map's threshold; where there are none, the region around the map's maximum that lies
// above half of it.
function findAnomalous(map, [, height, width], isAnomalous, threshold) {
  if (!isAnomalous) return [];
  const above = [...map.keys()].filter((pixel) => map[pixel] > threshold);
  if (above.length > 0) return above;
  const peak = map.reduce((best, value, pixel) => (value > map[best] ? pixel : best), 0);
  const found = new Set([peak]);
  for (const pixel of found) {
    const [row, column] = [Math.floor(pixel / width), pixel % width];
    for (let y = Math.max(row - 1, 0); y <= Math.min(row + 1, height - 1); y++)
      for (let x = Math.max(column - 1, 0); x <= Math.min(column + 1, width - 1); x++)
        if (map[y * width + x] > map[peak] / 2) found.add(y * width + x);
  }
  return [...found];
}

const [model, ...rest] = process.argv.slice(2);
const [threshold, mapThreshold] = rest.slice(0, 2).map(Number);
const session = await ort.InferenceSession.create(model);
for (const path of rest.slice(2)) {
  const found = await session.run({ image: await readPpm(path) }, ["anomaly_map", "score"]);
  const [score, map] = [found.score.data[0], found.anomaly_map];
  const isAnomalous = score > threshold;
  const pixels = findAnomalous(map.data, map.dims, isAnomalous, mapThreshold);
  console.log(`${isAnomalous ? "anomalous" : "good"} ${score} ${pixels.length} ${path}`);
}
