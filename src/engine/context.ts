/**
 * The estimator context of a group of micro-batches on an engine. It divides samples into micro-batches, saves the residuals of
 * calls that will be differentiated, adds the KL penalty, scales gradients in float16 (`loss-scale.ts`), and counts the work.
 */
import type { ChainStep, DdimStep } from "../diffusion/ddim.js";
import { forward, stack, type Trajectory, take, type Vjp, type VjpCall } from "../diffusion/trajectory.js";
import type {
  EstimatorContext,
  SampleOptions,
  TrainingSample,
  UnetCall,
  UnetCallOptions,
} from "../estimators/index.js";
import type { BatchGradients, BatchLosses, PartRewards } from "../rewards/index.js";
import type { Engine } from "./engine.js";
import type { Cost, GradientRequest } from "./gradient.js";
import { callsToSave, type Group } from "./groups.js";
import { Float16Overflow, scaleFactor } from "./loss-scale.js";
import { type SavedCall, SavedResiduals } from "./residuals.js";
import { inBatches } from "./samples.js";
import { joinScores, requireFiniteScores } from "./scores.js";

export interface ContextOptions {
  readonly group: Group;
  readonly request: GradientRequest;
  /** Shown in messages. */
  readonly rewardName: string;
  /** The gradient of the whole update, to which this context adds. */
  readonly gradient: Float64Array;
  /** True if the gradient of this update has overflowed already, so that backward calls would be wasted. */
  readonly overflowed: boolean;
}

/** A VJP, perhaps with other parameters than the trainable ones. Those get no gradient. */
interface BackwardPass extends VjpCall {
  readonly parameters?: Float32Array | undefined;
}

export class EngineContext implements EstimatorContext {
  readonly samples: readonly TrainingSample[];
  readonly gradient: Float64Array;
  /** Rewards of the first scoring. */
  rewards: readonly number[] = [];
  parts: PartRewards | undefined;
  /** Σ mean((ε̂ − ε̂_base)²) over the differentiated calls and samples. */
  divergence = 0;
  private unetCalls = 0;
  private rewardQueries = 0;
  private readonly saved: SavedResiduals;
  /** Calls of `sample`, in the order in which they were made. */
  private readonly chain = new Set<SavedCall>();
  private readonly scoredLosses: number[][] = [];

  constructor(
    private readonly engine: Engine,
    private readonly options: ContextOptions,
  ) {
    this.samples = options.group.flat();
    this.gradient = options.gradient;
    this.saved = new SavedResiduals(engine.maxSavedCalls);
  }

  get steps(): readonly DdimStep[] {
    return this.engine.steps;
  }

  get latentElements(): number {
    return this.engine.latentElements;
  }

  get globalBatchSize(): number {
    return this.options.request.globalBatchSize;
  }

  get parameters(): Float32Array {
    return this.options.request.parameters;
  }

  get baseParameters(): Float32Array {
    const { baseParameters } = this.options.request;
    if (!baseParameters) throw new TypeError("an estimator that reads baseParameters must set usesBaseModel: true");
    return baseParameters;
  }

  get cost(): Cost {
    return { unetCalls: this.unetCalls, rewardQueries: this.rewardQueries };
  }

  /** The loss of each sample: the mean over all times that it was scored. Empty before the first scoring. */
  get losses(): number[] {
    const { scoredLosses } = this;
    if (scoredLosses.length === 0) return [];
    return this.samples.map(
      (_, i) => scoredLosses.reduce((sum, losses) => sum + (losses[i] as number), 0) / scoredLosses.length,
    );
  }

  async sample({
    until,
    outputs = this.options.request.klWeight !== undefined,
    parameters,
  }: SampleOptions = {}): Promise<Trajectory> {
    const { engine, steps, samples, latentElements: size } = this;
    const { group } = this.options;
    const rows = () => new Float32Array(samples.length * size);
    const pool = {
      latents: steps.map(rows),
      final: rows(),
      outputs: steps.map((): Float32Array | undefined => undefined),
    };
    const toSave = parameters === undefined ? callsToSave(group, this.saved.room) : [];
    let first = 0;
    for (const [n, batch] of group.entries()) {
      const indices = batch.map((_, i) => first + i);
      const noises = batch.map((sample) => sample.noise());
      const last = until ? Math.max(...indices.map((i) => until[i] as number)) : steps.length - 1;
      const prompts = batch.map(({ prompt }) => prompt);
      const conditioning = await engine.condition(prompts, parameters ?? this.parameters);
      const predict = async (x: Float32Array, step: number) => {
        const wanted = toSave.some((call) => call.batch === n && call.step === step);
        const { output, saved } = await this.saved.call({ step, samples: indices, x, wanted }, (save) =>
          engine.forward(conditioning, x, step, save),
        );
        this.unetCalls += batch.length;
        if (saved) this.chain.add(saved);
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

  async callUnet({
    step,
    x,
    samples = this.samples.map((_, i) => i),
    wantsDx = false,
    parameters,
  }: UnetCallOptions): Promise<UnetCall> {
    const { engine, latentElements: size } = this;
    const output = new Float32Array(x.length);
    const own = new Set<SavedCall>();
    for (const places of inBatches([...samples.keys()], engine.batch)) {
      const some = this.microBatch(samples, places, x);
      const conditioning = await some.condition(parameters ?? this.parameters);
      const indices = places.map((place) => samples[place] as number);
      const found = await this.saved.call({ step, samples: indices, x: some.x }, (save) =>
        engine.forward(conditioning, some.x, step, save),
      );
      this.unetCalls += places.length;
      output.set(found.output.subarray(0, places.length * size), (places[0] as number) * size);
      if (found.saved) own.add(found.saved);
    }
    return {
      output,
      backward: (upstream) => this.backward({ step, samples: samples, x, upstream, output, parameters, wantsDx }, own),
    };
  }

  async vjp(call: VjpCall): Promise<Vjp> {
    return await this.backward(call, this.chain);
  }

  async scoreWithGradient(latents: Float32Array): Promise<BatchGradients> {
    const found: BatchGradients[] = [];
    for (const { x, prompts } of this.microBatches(latents)) {
      found.push(await this.engine.scoreWithGradient(x, prompts));
    }
    const dLatents = stack(found.map((each) => each.dLatents));
    return { ...this.scored(latents, found, dLatents), dLatents };
  }

  async score(latents: Float32Array): Promise<BatchLosses> {
    const found: BatchLosses[] = [];
    for (const { x, prompts } of this.microBatches(latents)) found.push(await this.engine.score(x, prompts));
    return this.scored(latents, found);
  }

  /** Releases residuals that no backward call has used. */
  async release(): Promise<void> {
    await this.saved.releaseAll();
    this.chain.clear();
  }

  /** A VJP, divided into calls by the saved residuals and the batch size. Uses up the residuals. */
  private async backward(call: BackwardPass, savedCalls: Set<SavedCall>): Promise<Vjp> {
    if (this.options.overflowed) throw new Float16Overflow();
    const pass = call.parameters ? call : { ...call, upstream: await this.withKlGradient(call) };
    const dx = call.wantsDx ? new Float32Array(call.x.length) : null;
    const left = new Set(call.samples.keys());
    for (const saved of savedCalls) {
      const places = this.placesOf(saved, call, left);
      if (!places) continue;
      savedCalls.delete(saved);
      for (const place of places) left.delete(place);
      await this.addVjp(pass, places, dx, saved);
      await this.saved.release(saved);
    }
    for (const places of inBatches([...left], this.engine.batch)) await this.addVjp(pass, places, dx);
    return { dx };
  }

  /**
   * The places of a saved call's samples among the places of `call` that are left; undefined if the saved call is another one. The
   * latents decide, because an estimator may sample more than once or pass a sample several times.
   */
  private placesOf(saved: SavedCall, { step, samples, x }: VjpCall, left: ReadonlySet<number>): number[] | undefined {
    if (saved.step !== step) return undefined;
    const { latentElements: size } = this;
    const row = (all: Float32Array, i: number) => all.subarray(i * size, (i + 1) * size);
    const free = new Set(left);
    const places: number[] = [];
    for (const [i, sample] of saved.samples.entries()) {
      const latents = row(saved.x, i);
      const isSame = (place: number) =>
        samples[place] === sample && row(x, place).every((value, j) => value === latents[j]);
      const place = [...free].find(isSame);
      if (place === undefined) return undefined;
      free.delete(place);
      places.push(place);
    }
    return places;
  }

  /** One backward call of the U-Net: adds the gradient of the samples at some places of `pass`. */
  private async addVjp(
    pass: BackwardPass,
    places: readonly number[],
    dx: Float32Array | null,
    saved?: SavedCall,
  ): Promise<void> {
    const { engine, gradient, latentElements: size } = this;
    const { lossScale } = this.options.request;
    const some = this.microBatch(pass.samples, places, pass.x);
    // An incomplete batch is filled with copies of its first sample, whose upstream is 0.
    const own = new Float32Array(engine.batch * size);
    own.set(take(pass.upstream, places, size));
    const factor = lossScale === undefined ? 1 : scaleFactor(lossScale, own);
    const upstream = factor === 1 ? own : own.map((value) => value * factor);
    const conditioning = await some.condition(pass.parameters ?? this.parameters);
    const call = { x: some.x, step: pass.step, upstream, residuals: saved?.residuals };
    const found = await engine.backward(conditioning, call);
    this.unetCalls += places.length * (saved ? 1 : 2);
    const unscaled = (values: Float32Array) => {
      if (lossScale !== undefined && !values.every(Number.isFinite)) throw new Float16Overflow();
      return factor === 1 ? values : values.map((value) => value / factor);
    };
    if (!pass.parameters) {
      for (const [j, value] of unscaled(found.dParameters).entries()) gradient[j] = (gradient[j] as number) + value;
    }
    if (!dx) return;
    if (!found.dx) throw new TypeError("an estimator that wants dL/dx must return true from needsDx");
    const rows = unscaled(found.dx);
    for (const [i, place] of places.entries()) dx.set(rows.subarray(i * size, (i + 1) * size), place * size);
  }

  /**
   * The upstream gradient plus that of the KL penalty, klWeight · Σ mean((ε̂ − ε̂_base)²) / globalBatchSize. The base model's
   * prediction is a constant, and ε̂ is linear in the U-Net's output.
   */
  private async withKlGradient(call: VjpCall): Promise<Float32Array> {
    const { latentElements: size, globalBatchSize } = this;
    const { klWeight } = this.options.request;
    if (klWeight === undefined) return call.upstream;
    const { noise } = this.steps[call.step] as DdimStep;
    const [now, before] = await Promise.all([
      call.output ?? this.predict(call, this.parameters),
      this.predict(call, this.baseParameters),
    ]);
    const upstream = call.upstream.slice();
    for (let j = 0; j < upstream.length; j++) {
      const difference = noise.output * ((now[j] as number) - (before[j] as number));
      this.divergence += difference ** 2 / size;
      upstream[j] = (upstream[j] as number) + (2 * klWeight * noise.output * difference) / (size * globalBatchSize);
    }
    return upstream;
  }

  /** The U-Net's outputs with some parameters, not to be differentiated. */
  private async predict({ step, samples, x }: VjpCall, parameters: Float32Array): Promise<Float32Array> {
    const { engine, latentElements: size } = this;
    const all = new Float32Array(x.length);
    for (const places of inBatches([...samples.keys()], engine.batch)) {
      const some = this.microBatch(samples, places, x);
      const { output } = await engine.forward(await some.condition(parameters), some.x, step, false);
      this.unetCalls += places.length;
      all.set(output.subarray(0, places.length * size), (places[0] as number) * size);
    }
    return all;
  }

  /** The samples at some places of a call, filled up to a whole micro-batch with copies of the first. */
  private microBatch(samples: readonly number[], places: readonly number[], x: Float32Array) {
    const { engine, latentElements: size } = this;
    const full = Array.from({ length: engine.batch }, (_, i) => places[i] ?? (places[0] as number));
    const prompts = full.map((place) => (this.samples[samples[place] as number] as TrainingSample).prompt);
    return {
      x: take(x, full, size),
      condition: (parameters: Float32Array) => engine.condition(prompts, parameters),
    };
  }

  /** The latents of all samples, a micro-batch of the group at a time. */
  private *microBatches(latents: Float32Array) {
    let first = 0;
    for (const batch of this.options.group) {
      const end = first + batch.length;
      yield {
        x: latents.subarray(first * this.latentElements, end * this.latentElements),
        prompts: batch.map(({ prompt }) => prompt),
      };
      first = end;
    }
  }

  /** Joins the scores of all micro-batches and records them. */
  private scored(latents: Float32Array, found: readonly BatchLosses[], dLatents?: Float32Array): BatchLosses {
    const scores = joinScores(found);
    requireFiniteScores(this.samples, this.options.rewardName, { latents, rewards: scores.rewards, dLatents });
    if (this.scoredLosses.length === 0) [this.rewards, this.parts] = [[...scores.rewards], scores.parts];
    this.scoredLosses.push([...scores.losses]);
    this.rewardQueries += this.samples.length;
    return scores;
  }
}
