import type { Conditioning } from "../diffusion/guidance.js";
import type { Graph } from "../graph/graph.js";
import { endOfText } from "../models/clip/text.js";
import type { Program, Runtime } from "../runtime/runtime.js";
import { float32, fromNumbers, type HostTensor, toFloat32 } from "../tensor/host.js";
import { sizeOf } from "../tensor/shape.js";
import type { Pipeline } from "./pipeline.js";

/** Number of cached embeddings: 120 MB for Stable Diffusion 1 and 2, 320 MB for XL. Runs draw from a short list of prompts again and again. */
const MOST_CACHED = 512;

/** Prompts as embeddings for the U-Net, with a cache. Samplers of several runtimes may share one. */
export class PromptEncoder {
  private readonly cache = new Map<string, Promise<Conditioning<HostTensor>>>();

  private constructor(
    private readonly pipeline: Pipeline,
    private readonly program: Program,
  ) {}

  /** `graph` is the pipeline's `textGraph`. */
  static async compile(runtime: Runtime, pipeline: Pipeline, graph: Graph): Promise<PromptEncoder> {
    return new PromptEncoder(pipeline, await runtime.compile(graph, pipeline.weights));
  }

  /** The embeddings of one prompt per image. */
  async encode(prompts: readonly string[]): Promise<Conditioning<HostTensor>> {
    const each: Conditioning<HostTensor>[] = [];
    for (const prompt of prompts) each.push(await this.encodeOne(prompt));
    return joined(each);
  }

  /** The embeddings of the unconditional branch for `batch` images. */
  async encodeNegative(prompt: string, batch: number): Promise<Conditioning<HostTensor>> {
    const encoded = await this.encode(new Array<string>(batch).fill(prompt));
    // diffusers distinguishes an empty negative prompt from none; here an empty one means none.
    return prompt === "" && this.pipeline.forceZerosForEmptyPrompt ? zerosLike(encoded) : encoded;
  }

  release(): Promise<void> {
    return this.program.release();
  }

  private encodeOne(prompt: string): Promise<Conditioning<HostTensor>> {
    const known = this.cache.get(prompt);
    if (known) return known;
    const encoding = this.run(prompt);
    const [oldest] = this.cache.keys();
    if (this.cache.size >= MOST_CACHED && oldest !== undefined) this.cache.delete(oldest);
    this.cache.set(prompt, encoding);
    return encoding;
  }

  private async run(prompt: string): Promise<Conditioning<HostTensor>> {
    const { text, pooled } = await this.program.run(this.read(prompt));
    return { text: text as HostTensor, ...(pooled && { pooled }) };
  }

  /** The inputs of the text encoders. */
  private read(prompt: string): Record<string, HostTensor> {
    const { textEncoders } = this.pipeline;
    const inputs: Record<string, HostTensor> = {};
    for (const { name, tokenizer } of textEncoders) {
      inputs[name] = fromNumbers(tokenizer.encode(prompt).ids, [1, tokenizer.maxLength], "int64");
    }
    const [, second] = textEncoders;
    if (second) inputs.endOfText = endOfText([second.tokenizer.encode(prompt).ids], second.config);
    return inputs;
  }
}

/** Concatenates the embeddings of single prompts. */
function joined(each: readonly Conditioning<HostTensor>[]): Conditioning<HostTensor> {
  const join = (parts: readonly HostTensor[]): HostTensor => {
    const [, ...shape] = (parts[0] as HostTensor).shape;
    const rows = parts.map(toFloat32);
    const size = (rows[0] as Float32Array).length;
    const all = new Float32Array(rows.length * size);
    for (const [i, row] of rows.entries()) all.set(row, i * size);
    return float32(all, [parts.length, ...shape]);
  };
  const pooled = each.flatMap(({ pooled }) => (pooled ? [pooled] : []));
  return { text: join(each.map(({ text }) => text)), ...(pooled.length > 0 && { pooled: join(pooled) }) };
}

function zerosLike({ text, pooled }: Conditioning<HostTensor>): Conditioning<HostTensor> {
  const zeros = ({ shape }: HostTensor) => float32(new Float32Array(sizeOf(shape)), shape);
  return { text: zeros(text), ...(pooled && { pooled: zeros(pooled) }) };
}
