/**
 * The toolbox of estimators on an engine: divides pictures into micro-batches, keeps the residuals of the calls whose
 * gradient is taken, regularises, and counts. Where the U-Net computes in halves, upstreams are scaled on their way in and
 * gradients on their way out (`loss-scale.ts`).
 */

import type { ChainStep, DdimStep } from "../diffusion/ddim.js";
import { forward, stack, type Trajectory, take, type Vjp, type VjpCall } from "../diffusion/trajectory.js";
import { InputError } from "../errors/index.js";
import type { CallAt, SampleOptions, Toolbox, UnetCall } from "../estimators/estimator.js";
import type { TrainingSample } from "../estimators/sample.js";
import { type JudgedLatents, type JudgedPictures, joinParts, type PartRewards } from "../rewards/scores.js";
import type { Kept } from "../runtime/runtime.js";
import type { Engine } from "./engine.js";
import { callsToKeep, type Walk } from "./groups.js";
import { factorOf, HalfOverflow } from "./loss-scale.js";
import { inBatches } from "./samples.js";

/** An optimizer update that pictures are learnt from. */
export interface Update {
  readonly parameters: Float32Array;
  /** Its pictures, here and elsewhere. */
  readonly total: number;
  /** Of the upstreams, where the U-Net computes in halves. */
  readonly scale?: number | undefined;
  /** Those of the base model, where anything asks for them. */
  readonly base?: Float32Array | undefined;
  /** The weight of the pull towards what the base model predicts. */
  readonly kl?: number | undefined;
  /** Nothing comes back any more: halves could not hold the gradient of other pictures of this update. */
  readonly lost?: boolean;
}

/** What the pictures of a toolbox have cost, each counted for itself: a micro-batch of 4 at one step is 4 calls. */
export interface Cost {
  /** Of the U-Net, forward or back; a way back that computes the forward pass again is two. */
  unetCalls: number;
  /** Pictures rewarded. */
  rewardQueries: number;
}

/** A way back, of calls with what learns or with other parameters, which get no gradient. */
interface Product extends VjpCall {
  readonly parameters?: Float32Array | undefined;
}

/** Residuals of one call for some pictures, in the order in which the call had them. */
interface KeptCall {
  readonly step: number;
  readonly pictures: readonly number[];
  readonly kept: Kept;
}

export class WalkToolbox implements Toolbox {
  readonly samples: readonly TrainingSample[];
  readonly steps: readonly DdimStep[];
  readonly size: number;
  readonly total: number;
  readonly parameters: Float32Array;
  readonly cost: Cost = { unetCalls: 0, rewardQueries: 0 };
  /** Of the first judgement of the pictures. */
  rewards: readonly number[] = [];
  parts: PartRewards | undefined;
  /** Σ over the calls whose gradient was taken of mean((ε̂ − ε̂_base)²), of all pictures together. */
  divergence = 0;
  private readonly chain = new Set<KeptCall>();
  private readonly calls: KeptCall[] = [];
  private readonly judgedLosses: number[][] = [];

  constructor(
    private readonly engine: Engine,
    private readonly walk: Walk,
    private readonly update: Update,
    private readonly rewardName: string,
    /** That of the whole update. */
    readonly gradient: Float64Array,
  ) {
    this.samples = walk.flat();
    this.steps = engine.steps;
    this.size = engine.latentElements;
    this.total = update.total;
    this.parameters = update.parameters;
  }

  get base(): Float32Array {
    if (!this.update.base) throw new TypeError("an estimator that asks for tools.base must say usesBase: true");
    return this.update.base;
  }

  /** Of each picture, the mean over its judgements. */
  get losses(): number[] {
    const { judgedLosses } = this;
    return this.samples.map(
      (_, i) => judgedLosses.reduce((sum, losses) => sum + (losses[i] as number), 0) / judgedLosses.length,
    );
  }

  async sample({ until, outputs = this.update.kl !== undefined, parameters }: SampleOptions = {}): Promise<Trajectory> {
    const { engine, walk, steps, size, samples } = this;
    const rows = () => new Float32Array(samples.length * size);
    const pool = {
      latents: steps.map(rows),
      final: rows(),
      outputs: steps.map((): Float32Array | undefined => undefined),
    };
    const toKeep = parameters === undefined ? callsToKeep(walk, engine.keptAtOnce) : [];
    let first = 0;
    for (const [n, batch] of walk.entries()) {
      const places = batch.map((_, i) => first + i);
      const noises = batch.map((sample) => sample.noise());
      const last = until ? Math.max(...places.map((i) => until[i] as number)) : steps.length - 1;
      const told = await engine.condition(
        batch.map(({ prompt }) => prompt),
        parameters ?? this.parameters,
      );
      const predict = async (x: Float32Array, step: number) => {
        const keep = toKeep.some((call) => call.batch === n && call.step === step);
        const { output, kept } = await engine.forward(told, x, step, keep);
        this.cost.unetCalls += batch.length;
        if (kept) this.chain.add({ step, pictures: places, kept });
        if (outputs && samples.some(({ mask }) => mask[step])) {
          pool.outputs[step] ??= rows();
          pool.outputs[step]?.set(output, first * size);
        }
        return output;
      };
      const chain: readonly ChainStep[] = steps.slice(0, last + 1);
      const found = await forward(chain, { predict }, stack(noises.map(({ initial }) => initial)), (step) =>
        stack(noises.map((noise) => noise.step(step))),
      );
      for (const [step, x] of found.latents.entries()) pool.latents[step]?.set(x, first * size);
      if (last === steps.length - 1) pool.final.set(found.final, first * size);
      first += batch.length;
    }
    return pool;
  }

  async call({
    step,
    x,
    pictures = this.samples.map((_, i) => i),
    wantsDx = false,
    parameters,
  }: CallAt): Promise<UnetCall> {
    const { engine, size } = this;
    const output = new Float32Array(x.length);
    const own: KeptCall[] = [];
    for (const places of inBatches([...pictures.keys()], engine.batch)) {
      const keep = this.chain.size + own.length < engine.keptAtOnce;
      const some = this.microBatch(pictures, places, x);
      const found = await engine.forward(await some.told(parameters ?? this.parameters), some.x, step, keep);
      this.cost.unetCalls += places.length;
      output.set(found.output.subarray(0, places.length * size), (places[0] as number) * size);
      if (found.kept) own.push({ step, pictures: places.map((place) => pictures[place] as number), kept: found.kept });
    }
    this.calls.push(...own);
    return {
      output,
      back: (upstream) => this.products({ step, pictures, x, upstream, output, parameters, wantsDx }, new Set(own)),
    };
  }

  async vjp(call: VjpCall): Promise<Vjp> {
    return await this.products(call, this.chain);
  }

  async judge(latents: Float32Array): Promise<JudgedLatents> {
    const found: JudgedLatents[] = [];
    await this.inMicroBatches(
      latents,
      async (some, prompts) => void found.push(await this.engine.judge(some, prompts)),
    );
    const dLatents = stack(found.map((each) => each.dLatents));
    return { ...this.judged(latents, found, dLatents), dLatents };
  }

  async reward(latents: Float32Array): Promise<JudgedPictures> {
    const found: JudgedPictures[] = [];
    await this.inMicroBatches(
      latents,
      async (some, prompts) => void found.push(await this.engine.reward(some, prompts)),
    );
    return this.judged(latents, found);
  }

  /** Frees what was kept and has not been asked for. */
  async release(): Promise<void> {
    for (const { kept } of [...this.chain, ...this.calls]) await kept.release();
    this.chain.clear();
  }

  /** A vector-Jacobian product, in as many calls as the kept residuals and the batch size make of it. */
  private async products(call: Product, keptCalls: Set<KeptCall>): Promise<Vjp> {
    if (this.update.lost) throw new HalfOverflow();
    const { engine } = this;
    const regularised = call.parameters ? call : { ...call, upstream: await this.regularise(call) };
    const dx = call.wantsDx ? new Float32Array(call.x.length) : null;
    const placeOf = new Map(call.pictures.map((picture, place) => [picture, place]));
    const left = new Set(placeOf.values());
    for (const made of keptCalls) {
      const places = made.pictures.map((picture) => placeOf.get(picture));
      if (made.step !== call.step || places.some((place) => place === undefined)) continue;
      await this.addProducts(regularised, places as number[], dx, made.kept);
      for (const place of places) left.delete(place as number);
      keptCalls.delete(made);
      await made.kept.release();
    }
    for (const places of inBatches([...left], engine.batch)) await this.addProducts(regularised, places, dx);
    return { dx };
  }

  /** Adds what the pictures at some places of `call` give, in one call of the U-Net. */
  private async addProducts(
    call: Product,
    places: readonly number[],
    dx: Float32Array | null,
    kept?: Kept,
  ): Promise<void> {
    const { engine, size, gradient } = this;
    const { scale } = this.update;
    const parameters = call.parameters ?? this.parameters;
    const some = this.microBatch(call.pictures, places, call.x);
    // Where the batch is not full, its first picture stands in, with no gradient to bring back.
    const given = new Float32Array(engine.batch * size);
    given.set(take(call.upstream, places, size));
    const factor = scale === undefined ? 1 : factorOf(scale, given);
    const upstream = factor === 1 ? given : given.map((value) => value * factor);
    const found = await engine.backward(await some.told(parameters), some.x, call.step, upstream, kept);
    this.cost.unetCalls += places.length * (kept ? 1 : 2);
    const unscaled = (values: Float32Array) => {
      if (scale !== undefined && !values.every(Number.isFinite)) throw new HalfOverflow();
      return factor === 1 ? values : values.map((value) => value / factor);
    };
    if (!call.parameters) {
      for (const [j, value] of unscaled(found.dParameters).entries()) gradient[j] = (gradient[j] as number) + value;
    }
    if (!dx) return;
    if (!found.dx) throw new TypeError("an estimator that asks for dL/dx must say so in needsDx");
    const rows = unscaled(found.dx);
    for (const [i, place] of places.entries()) dx.set(rows.subarray(i * size, (i + 1) * size), place * size);
  }

  /**
   * The upstream with that of weight · Σ mean((ε̂ − ε̂_base)²) / pictures. The base model's prediction is a constant, and ε̂ is linear
   * in the output.
   */
  private async regularise(call: VjpCall): Promise<Float32Array> {
    const { size, total } = this;
    const { kl: weight } = this.update;
    if (weight === undefined) return call.upstream;
    const { noise } = this.steps[call.step] as DdimStep;
    const [now, before] = await Promise.all([
      call.output ?? this.outputs(call, this.parameters),
      this.outputs(call, this.base),
    ]);
    const upstream = call.upstream.slice();
    for (let j = 0; j < upstream.length; j++) {
      const difference = noise.output * ((now[j] as number) - (before[j] as number));
      this.divergence += difference ** 2 / size;
      upstream[j] = (upstream[j] as number) + (2 * weight * noise.output * difference) / (size * total);
    }
    return upstream;
  }

  /** What the U-Net gives with other parameters. */
  private async outputs({ step, pictures, x }: VjpCall, parameters: Float32Array): Promise<Float32Array> {
    const { engine, size } = this;
    const all = new Float32Array(x.length);
    for (const places of inBatches([...pictures.keys()], engine.batch)) {
      const some = this.microBatch(pictures, places, x);
      const { output } = await engine.forward(await some.told(parameters), some.x, step, false);
      this.cost.unetCalls += places.length;
      all.set(output.subarray(0, places.length * size), (places[0] as number) * size);
    }
    return all;
  }

  /** The pictures at some places of a call, filled up to a whole micro-batch with the first of them. */
  private microBatch(pictures: readonly number[], places: readonly number[], x: Float32Array) {
    const { engine, size } = this;
    const full = Array.from({ length: engine.batch }, (_, i) => places[i] ?? (places[0] as number));
    const prompts = full.map((place) => (this.samples[pictures[place] as number] as TrainingSample).prompt);
    return {
      x: take(x, full, size),
      told: (parameters: Float32Array) => engine.condition(prompts, parameters),
    };
  }

  private async inMicroBatches(
    latents: Float32Array,
    judge: (latents: Float32Array, prompts: readonly string[]) => Promise<void>,
  ): Promise<void> {
    let first = 0;
    for (const batch of this.walk) {
      const prompts = batch.map(({ prompt }) => prompt);
      await judge(latents.subarray(first * this.size, (first + batch.length) * this.size), prompts);
      first += batch.length;
    }
    this.cost.rewardQueries += first;
  }

  /** Of all micro-batches; numbers that are not finite end the run. */
  private judged(latents: Float32Array, found: readonly JudgedPictures[], dLatents?: Float32Array): JudgedPictures {
    const rewards = Float32Array.from(found.flatMap((each) => [...each.rewards]));
    const losses = Float32Array.from(found.flatMap((each) => [...each.losses]));
    const parts = joinParts(found.map((each) => each.parts));
    const holdsNumbers = (values: Float32Array, i: number) =>
      values.subarray(i * this.size, (i + 1) * this.size).every(Number.isFinite);
    for (const [i, { prompt, epoch, index }] of this.samples.entries()) {
      const fault = !holdsNumbers(latents, i)
        ? "the denoised latents are not finite"
        : !Number.isFinite(rewards[i])
          ? `the reward ${this.rewardName} is ${rewards[i]}`
          : dLatents && !holdsNumbers(dLatents, i)
            ? `the gradient of the reward ${this.rewardName} is not finite`
            : undefined;
      if (fault) throw new InputError("not-finite", `${fault} for "${prompt}" (sample ${index} of epoch ${epoch})`);
    }
    if (this.judgedLosses.length === 0) [this.rewards, this.parts] = [[...rewards], parts];
    this.judgedLosses.push([...losses]);
    return { rewards, losses, ...(parts && { parts }) };
  }
}
