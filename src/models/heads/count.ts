import { join } from "node:path";
import { z } from "zod";
import type { Value } from "../../graph/value.js";
import { count, parseConfig, upTo } from "../../io/config-schema.js";
import { conv2d, groupNorm, linear } from "../../nn/layers.js";
import { frozenScope, type Scope } from "../../nn/scope.js";
import { constant, matmul, mean, mul, reshape, silu, softmax, sub } from "../../ops/index.js";
import { openWeights, readConfig } from "../../weights/folder.js";
import { type WeightSource, withPrefix } from "../../weights/source.js";

/**
 * The embedded counting model: a small convolutional classifier of how many animals an image shows, from 1 to `most`.
 * It is trained by pretrain/count.ts.
 */
export interface CountConfig {
  readonly imageSize: number;
  /** Channels after each convolution. Each convolution halves the resolution. */
  readonly widths: readonly number[];
  readonly most: number;
}

const GROUPS = 8;

const schema = z.object({
  model_type: z.literal("count"),
  image_size: upTo(1024),
  widths: z.array(count.multipleOf(GROUPS)).min(1).max(10),
  most: upTo(100),
});

/** Opens the counting model in a folder. `path` is the prefix of its parameters' names. */
export async function openCountHead(folder: string, path: string) {
  const json = parseConfig(schema, await readConfig(folder, z.unknown()), join(folder, "config.json"));
  const config: CountConfig = { imageSize: json.image_size, widths: json.widths, most: json.most };
  const weights: WeightSource = withPrefix(await openWeights(folder), `${path}.`);
  return { config, weights, scope: frozenScope(weights, path) };
}

/** images [b, 3, s, s] in 0 … 1 → logits of the counts 1 … most [b, most] */
export function countLogits(scope: Scope, { widths, most }: CountConfig, images: Value): Value {
  let h = sub(mul(images, 2), 1);
  for (const [i, channels] of widths.entries()) {
    h = conv2d(scope.at("convs").at(i), h, { outChannels: channels, kernel: 3, stride: 2, padding: 1 });
    h = silu(groupNorm(scope.at("norms").at(i), h, GROUPS, 1e-5));
  }
  return linear(scope.at("head"), mean(h, [2, 3]), most);
}

/** images [b, 3, s, s] in 0 … 1 → expected count Σ k · p(k) [b] */
export function expectedCount(scope: Scope, config: CountConfig, images: Value): Value {
  const numbers = Array.from({ length: config.most }, (_, i) => i + 1);
  const probabilities = softmax(countLogits(scope, config, images));
  return reshape(matmul(probabilities, constant(numbers, [config.most, 1])), [-1]);
}
