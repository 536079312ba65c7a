/**
 * Spearman's rank correlation of the JPEG size that the compressibility reward estimates with the size of libjpeg's files, by
 * quality.
 *
 *     npm run build && node dist/bench/jpeg-rank.js [--images 200] [--size 64]
 */
import { parseArgs } from "node:util";
import { Runtime } from "../src/runtime/runtime.js";
import { rankCorrelation } from "../test/jpeg-ranks.js";

const { values } = parseArgs({
  options: { images: { type: "string", default: "200" }, size: { type: "string", default: "64" } },
});
const [count, size] = [Number(values.images), Number(values.size)];
const runtime = await Runtime.start();
for (const quality of [50, 75, 95]) {
  const { correlation, smallest, largest } = await rankCorrelation(runtime, { count, size, quality });
  console.log(
    `quality ${quality}: Spearman ${correlation.toFixed(4)} over ${count} images of ${size}x${size}, file sizes ${smallest} to ${largest} bytes`,
  );
}
await runtime.close();
