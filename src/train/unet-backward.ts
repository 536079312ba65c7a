/**
 * The U-Net's vector-Jacobian products. A call whose residuals were kept starts its way back from them; of any other, the
 * forward pass is computed again. The gradients are the same but for rounding. Where the U-Net computes in halves, the
 * upstream is scaled on its way in and the gradients on their way out (`loss-scale.ts`).
 */
import type { Denoiser, VjpCall } from "../diffusion/trajectory.js";
import type { Feeds, Kept, Program, Runtime } from "../runtime/runtime.js";
import { float32, type HostTensor, toFloat32 } from "../tensor/host.js";
import type { TrainingGraphs } from "./graphs.js";
import type { LearnedLayout } from "./learned.js";
import { factorOf, HalfOverflow } from "./loss-scale.js";
import type { MemoryPlan } from "./memory.js";
import { type Sampler, stack, type Told } from "./sampler.js";
import { inBatches, type TrainingSample } from "./samples.js";
import { type Call, callsToKeep, type Walk } from "./walks.js";

/** Of calls whose residuals are kept: the forward pass that gives them, and the way back that begins with them. */
interface KeepingPrograms {
  readonly forward: Program;
  readonly backward: Program;
  readonly residuals: readonly string[];
}

export class UnetBackward {
  private recomputing: Promise<Program> | undefined;

  private constructor(
    readonly sampler: Sampler,
    readonly layout: LearnedLayout,
    private readonly keptAtOnce: number,
    readonly keeping: KeepingPrograms | undefined,
    private readonly compileRecomputing: () => Promise<Program>,
  ) {}

  static async compile(
    runtime: Runtime,
    sampler: Sampler,
    layout: LearnedLayout,
    { split, vjp }: TrainingGraphs,
    { keptAtOnce, recomputes }: MemoryPlan,
  ): Promise<UnetBackward> {
    const { weights } = sampler.pipeline;
    const keeping = keptAtOnce > 0 && {
      forward: await runtime.compile(split.forward, weights),
      backward: await runtime.compile(split.backward, weights),
      residuals: split.residuals,
    };
    const compileRecomputing = () => runtime.compile(vjp, weights);
    const unet = new UnetBackward(sampler, layout, keptAtOnce, keeping || undefined, compileRecomputing);
    if (recomputes) await unet.recompute();
    return unet;
  }

  /** Forward and backward in one. Compiled when it is first asked for: masks drawn late in a run may need it all the same. */
  recompute(): Promise<Program> {
    this.recomputing ??= this.compileRecomputing();
    return this.recomputing;
  }

  /** For one walk; release it at the walk's end. `scale`: of the upstreams, where the U-Net computes in halves. */
  begin(walk: Walk, parameters: Float32Array, scale?: number): WalkBack {
    return new WalkBack(this, walk, parameters, callsToKeep(walk, this.keptAtOnce), scale);
  }

  async release(): Promise<void> {
    await this.keeping?.forward.release();
    await this.keeping?.backward.release();
    await (await this.recomputing)?.release();
  }
}

/** The denoiser of one walk: its micro-batches go forward one after another and back together. */
class WalkBack {
  private readonly kept = new Map<Call, Kept>();
  private readonly pictures: readonly TrainingSample[];

  constructor(
    private readonly unet: UnetBackward,
    walk: Walk,
    private readonly parameters: Float32Array,
    private readonly toKeep: readonly Call[],
    private readonly scale: number | undefined,
  ) {
    this.pictures = walk.flat();
  }

  /** The U-Net for one micro-batch on its way to the pictures. */
  predict(batch: number, told: Told): Denoiser["predict"] {
    const { sampler, keeping } = this.unet;
    return async (x, step) => {
      const call = this.toKeep.find((call) => call.batch === batch && call.step === step);
      if (!call || !keeping) return sampler.predict(told, x, step);
      const feeds = { ...told, ...sampler.place(x, step) };
      const { outputs, kept } = await keeping.forward.runKeeping(feeds, keeping.residuals);
      this.kept.set(call, kept);
      return toFloat32(outputs.output as HostTensor);
    };
  }

  /** For any of the walk's pictures, in as many calls as their residuals and the batch size make of them. */
  readonly vjp: Denoiser["vjp"] = async (call) => {
    const { sampler, layout, keeping } = this.unet;
    const { batch } = sampler;
    const sums = { dParameters: new Float64Array(layout.size), dx: new Float32Array(call.x.length) };
    /** Places in `call.pictures` that are still to do. */
    let places = call.pictures.map((_, place) => place);
    for (const [made, kept] of this.kept) {
      if (made.step !== call.step || !keeping) continue;
      const isOfIt = (place: number) => Math.floor((call.pictures[place] as number) / batch) === made.batch;
      await this.add(sums, call, places.filter(isOfIt), (feeds) => keeping.backward.run(feeds, kept));
      places = places.filter((place) => !isOfIt(place));
      this.kept.delete(made);
      await kept.release();
    }
    for (const some of inBatches(places, batch)) {
      const program = await this.unet.recompute();
      await this.add(sums, call, some, (feeds) => program.run(feeds));
    }
    return sums;
  };

  /** Frees what a walk that ended early has left. */
  async release(): Promise<void> {
    for (const kept of this.kept.values()) await kept.release();
    this.kept.clear();
  }

  /** Runs a vector-Jacobian product for the pictures at some places of `call` and adds what it gives to `sums`. */
  private async add(
    sums: { dParameters: Float64Array; dx: Float32Array },
    { step, pictures, x, upstream }: VjpCall,
    places: readonly number[],
    run: (feeds: Feeds) => Promise<Record<string, HostTensor>>,
  ): Promise<void> {
    const { sampler } = this.unet;
    const { batch, latentElements: size } = sampler;
    const rows = (values: Float32Array) => places.map((place) => values.subarray(place * size, (place + 1) * size));
    // Where the batch is not full, its first picture stands in, with no gradient to bring back.
    const absent = batch - places.length;
    const padded = <T>(values: readonly T[], value: T) => [...values, ...new Array<T>(absent).fill(value)];
    const [first] = rows(x) as [Float32Array];
    const prompts = places.map((place) => (this.pictures[pictures[place] as number] as TrainingSample).prompt);
    const at = sampler.place(stack(padded(rows(x), first)), step);
    const given = stack(padded(rows(upstream), new Float32Array(size)));
    const factor = this.scale === undefined ? 1 : factorOf(this.scale, given);
    const results = await run({
      ...(await sampler.condition(padded(prompts, prompts[0] as string), this.parameters)),
      ...at,
      upstream: float32(factor === 1 ? given : given.map((value) => value * factor), at.latents.shape),
    });
    const unscaled = (tensor: HostTensor) => {
      const values = toFloat32(tensor);
      if (this.scale !== undefined && !values.every(Number.isFinite)) throw new HalfOverflow();
      return factor === 1 ? values : values.map((value) => value / factor);
    };
    for (const [j, value] of unscaled(results.dParameters as HostTensor).entries()) {
      sums.dParameters[j] = (sums.dParameters[j] as number) + value;
    }
    if (!results.dLatents) return;
    const found = unscaled(results.dLatents);
    for (const [i, place] of places.entries()) sums.dx.set(found.subarray(i * size, (i + 1) * size), place * size);
  }
}
