import type { Conditioning } from "../diffusion/guidance.js";
import type { Graph } from "../graph/graph.js";
import { endOfText } from "../models/clip/text.js";
import type { Program, Runtime } from "../runtime/runtime.js";
import { float32, fromNumbers, type HostTensor, toFloat32 } from "../tensor/host.js";
import { sizeOf } from "../tensor/shape.js";
import type { Pipeline } from "./pipeline.js";

/** Number of cached embeddings: 120 MB for Stable Diffusion 1 and 2, 320 MB for XL. Runs draw from a short list of prompts again and again. */
const MOST_CACHED = 512;

/**
 * Prompts as embeddings for the U-Net, with a cache. Samplers of several runtimes may share one. A program that maps its weights
 * is compiled when a prompt must be encoded, which takes less than a second, and released at once, so that the large encoder
 * takes no memory while the U-Net works.
 */
export class PromptEncoder {
  private readonly cache = new Map<string, Promise<Conditioning<HostTensor>>>();
  private program: Promise<Program> | undefined;
  /** Calls of `encode` that use the program. */
  private users = 0;

  private constructor(
    private readonly runtime: Runtime,
    private readonly pipeline: Pipeline,
    private readonly graph: Graph,
  ) {}

  /** `graph` is the pipeline's `textGraph`. */
  static async compile(runtime: Runtime, pipeline: Pipeline, graph: Graph): Promise<PromptEncoder> {
    const encoder = new PromptEncoder(runtime, pipeline, graph);
    if (encoder.staysLoaded) await encoder.load();
    return encoder;
  }

  /** The embeddings of one prompt per image. */
  async encode(prompts: readonly string[]): Promise<Conditioning<HostTensor>> {
    this.users++;
    try {
      const each: Conditioning<HostTensor>[] = [];
      for (const prompt of prompts) each.push(await this.encodeOne(prompt));
      return joined(each);
    } finally {
      if (--this.users === 0 && !this.staysLoaded) await this.release();
    }
  }

  /** The embeddings of the unconditional branch for `batch` images. */
  async encodeNegative(prompt: string, batch: number): Promise<Conditioning<HostTensor>> {
    const encoded = await this.encode(new Array<string>(batch).fill(prompt));
    // diffusers distinguishes an empty negative prompt from none; here an empty one means none.
    return prompt === "" && this.pipeline.forceZerosForEmptyPrompt ? zerosLike(encoded) : encoded;
  }

  async release(): Promise<void> {
    const { program } = this;
    this.program = undefined;
    await (await program)?.release();
  }

  private get staysLoaded(): boolean {
    return this.runtime.holdingOf(this.graph) === "packed";
  }

  private load(): Promise<Program> {
    this.program ??= this.runtime.compile(this.graph, this.pipeline.weights);
    return this.program;
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
    const program = await this.load();
    const { text, pooled } = await program.run(this.read(prompt));
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
