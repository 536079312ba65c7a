import type { Program, Runtime } from "../runtime/runtime.js";
import { float32, fromNumbers, type HostTensor, toFloat32 } from "../tensor/host.js";
import { textGraph } from "./graphs.js";
import type { Pipeline } from "./pipeline.js";

/** Embeddings that are kept: 120 MB of Stable Diffusion's. Runs draw from a short list of prompts again and again. */
const MOST_KEPT = 512;

/** Prompts as the U-Net reads them. */
export class PromptEncoder {
  private readonly kept = new Map<string, Float32Array>();

  private constructor(
    private readonly pipeline: Pipeline,
    private readonly program: Program,
  ) {}

  static async compile(runtime: Runtime, pipeline: Pipeline): Promise<PromptEncoder> {
    return new PromptEncoder(pipeline, await runtime.compile(textGraph(pipeline, 1), pipeline.weights));
  }

  /** Prompts [b] → text [b, n, d] */
  async encode(prompts: readonly string[]): Promise<HostTensor> {
    const shape = [prompts.length, this.pipeline.tokenizer.maxLength, this.pipeline.textEncoder.hiddenSize] as const;
    const each = shape[1] * shape[2];
    const all = new Float32Array(shape[0] * each);
    for (const [i, prompt] of prompts.entries()) all.set(await this.encodeOne(prompt), i * each);
    return float32(all, shape);
  }

  release(): Promise<void> {
    return this.program.release();
  }

  private async encodeOne(prompt: string): Promise<Float32Array> {
    const known = this.kept.get(prompt);
    if (known) return known;
    const { tokenizer } = this.pipeline;
    const ids = fromNumbers(tokenizer.encode(prompt).ids, [1, tokenizer.maxLength], "int64");
    const { text } = await this.program.run({ ids });
    const embedding = toFloat32(text as HostTensor);
    const [oldest] = this.kept.keys();
    if (this.kept.size >= MOST_KEPT && oldest !== undefined) this.kept.delete(oldest);
    this.kept.set(prompt, embedding);
    return embedding;
  }
}
