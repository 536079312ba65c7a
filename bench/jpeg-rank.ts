/**
 * `node dist/bench/jpeg-rank.js [--pictures 200] [--size 64]`: whether the reward's estimate of a JPEG's size ranks pictures as
 * libjpeg's files do (Spearman's rank correlation), by quality.
 */
import { parseArgs } from "node:util";
import { Runtime } from "../src/runtime/runtime.js";
import { rankCorrelation } from "../test/jpeg-ranks.js";

const { values } = parseArgs({
  options: { pictures: { type: "string", default: "200" }, size: { type: "string", default: "64" } },
});
const [pictures, size] = [Number(values.pictures), Number(values.size)];
const runtime = await Runtime.start();
for (const quality of [50, 75, 95]) {
  const { correlation, smallest, largest } = await rankCorrelation(runtime, { pictures, size, quality });
  console.log(
    `quality ${quality}: Spearman ${correlation.toFixed(4)} over ${pictures} pictures of ${size}x${size}, files of ${smallest} to ${largest} bytes`,
  );
}
await runtime.close();
