import type { Conditioning } from "../diffusion/guidance.js";
import { endOfText } from "../models/clip/text.js";
import type { Program, Runtime } from "../runtime/runtime.js";
import { float32, fromNumbers, type HostTensor, toFloat32 } from "../tensor/host.js";
import { sizeOf } from "../tensor/shape.js";
import { textGraph } from "./graphs.js";
import type { Pipeline } from "./pipeline.js";

/** Embeddings that are kept: 120 MB of Stable Diffusion's, 320 MB of XL's. Runs draw from a short list of prompts again and again. */
const MOST_KEPT = 512;

/** Prompts as the U-Net reads them. */
export class PromptEncoder {
  private readonly kept = new Map<string, Conditioning<HostTensor>>();

  private constructor(
    private readonly pipeline: Pipeline,
    private readonly program: Program,
  ) {}

  static async compile(runtime: Runtime, pipeline: Pipeline): Promise<PromptEncoder> {
    return new PromptEncoder(pipeline, await runtime.compile(textGraph(pipeline), pipeline.weights));
  }

  /** One prompt for each picture of a batch. */
  async encode(prompts: readonly string[]): Promise<Conditioning<HostTensor>> {
    const each: Conditioning<HostTensor>[] = [];
    for (const prompt of prompts) each.push(await this.encodeOne(prompt));
    return joined(each);
  }

  /** The unconditional branch's, for `batch` pictures. */
  async encodeNegative(prompt: string, batch: number): Promise<Conditioning<HostTensor>> {
    const encoded = await this.encode(new Array<string>(batch).fill(prompt));
    // diffusers tells an empty negative prompt from none at all; here an empty one is none.
    return prompt === "" && this.pipeline.forceZerosForEmptyPrompt ? zerosLike(encoded) : encoded;
  }

  release(): Promise<void> {
    return this.program.release();
  }

  private async encodeOne(prompt: string): Promise<Conditioning<HostTensor>> {
    const known = this.kept.get(prompt);
    if (known) return known;
    const { text, pooled } = await this.program.run(this.read(prompt));
    const encoded = { text: text as HostTensor, ...(pooled && { pooled }) };
    const [oldest] = this.kept.keys();
    if (this.kept.size >= MOST_KEPT && oldest !== undefined) this.kept.delete(oldest);
    this.kept.set(prompt, encoded);
    return encoded;
  }

  /** The text encoders' inputs. */
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

/** Of one prompt each → of all, side by side. */
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
