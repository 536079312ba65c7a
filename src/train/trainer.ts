/**
 * AlignProp's training run (Prabhudesai et al. 2023, arXiv 2310.03739), from top to bottom:
 *
 *     θ: A ~ N(0, 1/r²), B = 0                                the adapter; everything else is frozen
 *     for each update:
 *       for each of its pictures:
 *         x_T ~ N(0, 1), prompt c, truncation mask m
 *         x_{t-1} = DDIM(x_t, ε̂(x_t, t, c))                   with classifier-free guidance, keeping x_t
 *         L = loss(reward(decode(x_0), c))
 *         g += dL/dx_0 walked back through DDIM and, where m, through ε̂, to θ
 *       θ ← AdamW(clip(g))
 *
 * With `precision: float16` the U-Net computes in halves and θ stays in float32; an update whose gradient they cannot hold
 * is skipped. With `trainable: unet`, θ is the U-Net's own weights instead of an adapter's. Several ranks (`../cluster`) take a
 * share of each update's pictures each, and add up g.
 */

import { type Cluster, orEnd, StopRequest, singleProcess } from "../cluster/cluster.js";
import { firstOnEachHost } from "../cluster/collective.js";
import { gpuOf, threadShare } from "../cluster/placement.js";
import { evaluationPrompts, inTemplate } from "../config/prompts.js";
import {
  accumulationSteps,
  evaluationBatch,
  laneSettings,
  type Settings,
  updatesPerEpoch,
} from "../config/settings.js";
import { initialLossScale, keepScale, lowerScale, MOST_SKIPPED } from "../engine/loss-scale.js";
import { countPlan } from "../engine/plan.js";
import { checksum, Ranks } from "../engine/ranks.js";
import { type Learnt, requireFinite } from "../engine/replica.js";
import { Learners, precisionHere, startLanes } from "../engine/replicas.js";
import { samplesOf } from "../engine/samples.js";
import { playRound } from "../engine/step.js";
import { InputError } from "../errors/index.js";
import { needsBase } from "../estimators/estimator.js";
import { openEstimator } from "../estimators/index.js";
import { type OpenListener, openModel } from "../pipeline/open-model.js";
import type { LearnedLayout } from "../pipeline/parameters.js";
import { promptWarnings } from "../pipeline/pipeline.js";
import type { Precision } from "../pipeline/precision.js";
import { Sampler } from "../pipeline/sampler.js";
import type { Reward } from "../rewards/index.js";
import { partMeans } from "../rewards/scores.js";
import { Evaluator } from "../scoring/evaluate.js";
import type { EvaluationResult } from "../scoring/evaluation.js";
import { openWatch, type Watch, watchedMetrics } from "../scoring/monitors.js";
import { openSettingsReward } from "../scoring/open-reward.js";
import { meanAndStd } from "../scoring/statistics.js";
import { fingerprint } from "../weights/fingerprint.js";
import { requireAgreement } from "./agreement.js";
import { checkpointFiles, resumeFrom, type TrainingState } from "./checkpoint.js";
import { type Evaluated, evaluatedAt, verdict } from "./early-stop.js";
import { average } from "./ema.js";
import type { StepMetrics, TrainEvent, TrainObserver, TrainResult } from "./events.js";
import { baseOf, openLearned } from "./initial.js";
import { adamw, adamwState, clipGradNorm } from "./optimizer.js";

export interface TrainOptions {
  /** The folder of a checkpoint to go on from. */
  readonly resume?: string | undefined;
  /** When aborted, the step in progress is finished and saved; in a run of several ranks, the last step is saved at once. */
  readonly signal?: AbortSignal | undefined;
  /** A reward made in code (`defineReward`), in the place of the settings' own. */
  readonly reward?: Reward | undefined;
  /** Told how the download of a model goes on. */
  readonly onFetch?: OpenListener["onFetch"];
  /** The processes that share the work (`connect`). All of them call this; rank 0 alone tells its observer. */
  readonly cluster?: Cluster | undefined;
}

export async function train(
  settings: Settings,
  observer: TrainObserver,
  options: TrainOptions = {},
): Promise<TrainResult> {
  const { cluster = singleProcess(), signal } = options;
  const stop = () => cluster.stop();
  if (cluster.size > 1) signal?.addEventListener("abort", stop);
  try {
    // Rank 0 alone tells what happens.
    return await run(settings, cluster.rank === 0 ? observer : () => {}, cluster, options);
  } catch (error) {
    cluster.fail(error);
    throw cluster.ended.reason ?? error;
  } finally {
    signal?.removeEventListener("abort", stop);
  }
}

async function run(
  settings: Settings,
  tell: TrainObserver,
  cluster: Cluster,
  { resume, signal, reward: given, onFetch }: TrainOptions,
): Promise<TrainResult> {
  const began = performance.now();
  accumulationSteps(settings.batch, cluster.size); // throws where the numbers don't divide
  const warnings: string[] = [];
  const warn = (message: string) => void warnings.push(message);
  const opened = await firstOnEachHost(cluster, () => open(settings, { resume, reward: given, warn, onFetch, signal }));
  const { pipeline, reward, watch, estimator, layout, initial, origin, saved } = opened;

  const { decay } = settings.ema;
  // The state: where a new run starts, or where a checkpoint left off.
  const start: TrainingState = saved ?? (await newState(layout, initial, decay));
  const { weights, averaged, optimizer } = start;
  const history: Evaluated[] = [...start.history];
  const kl = settings.kl.weight > 0 ? settings.kl.weight : undefined;
  const base = needsBase(settings, estimator)
    ? (start.base ?? (await baseOf(settings, layout.size, initial)))
    : undefined;
  let { step, cost, memory: remembered } = start;
  // What is shown and given away.
  const tuned = averaged ?? weights;

  // Several ranks share a host's processor and GPUs.
  const here = { ...settings, threads: settings.threads ?? (await threadShare(cluster)) };
  const gpu = gpuOf(cluster);
  const precision = await precisionHere(here, warn, gpu);
  await requireAgreement(cluster, { ...origin, precision, step, state: checksum(weights) });
  const lossScale = precision === "float16" ? (start.lossScale ?? initialLossScale()) : null;
  const plan = await countPlan(here, pipeline, reward, layout, estimator, precision, watch, cluster);
  const { memory } = plan;
  const state = (): TrainingState => ({
    ...{ step, weights, averaged, optimizer, history, lossScale, cost },
    memory: remembered,
    base: settings.lora.start === null ? undefined : base,
  });
  let savedStep = step;
  const checkpointOf = (held: TrainingState): TrainEvent => {
    savedStep = held.step;
    return { kind: "checkpointed", step: held.step, files: checkpointFiles(held, layout, origin, pipeline) };
  };
  /** What rank 0 may take long to write, the others wait for. */
  const tellPatiently = async (event: TrainEvent) => {
    await tell(event);
    await cluster.barrier({ patient: true });
  };
  /** The state after the last whole step; undefined while a step changes it. */
  let whole: TrainingState | undefined;
  /** The last step's, before they are told. */
  let metrics: StepMetrics | undefined;
  let { best, stop } = verdict(history, settings.early_stop);

  const runtimes = await startLanes(here, memory.lanes, gpu);
  try {
    const lane = laneSettings(settings, memory.lanes);
    const compiling = Learners.compile(runtimes, pipeline, reward, estimator, layout, lane, precision, memory);
    const learners = await orEnd(cluster, compiling);
    const workers = cluster.size === 1 ? learners : new Ranks(cluster, learners);
    const evaluator = await orEnd(cluster, openEvaluator(learners, reward, watch, lane, precision, cluster));
    const { updates } = settings.train;
    const baseDiversity = history.find((each) => each.step === 0)?.diversity;
    await tellPatiently({ kind: "started", plan, step, baseDiversity });
    const prompts = allPrompts(settings);
    const { negative } = settings.prompts;
    warnings.push(...promptWarnings(pipeline, [...prompts, negative]), ...reward.warnings(prompts));
    warnings.push(...(watch.heldOut?.warnings(evaluationPrompts(settings)) ?? []));
    for (const message of warnings) await tell({ kind: "warned", message });
    if (step === 0) {
      const result = await at(step, () => orEnd(cluster, evaluator.evaluate(tuned)));
      history.push(evaluatedAt(step, result));
      await tellPatiently({ kind: "evaluated", step, result });
    }
    ({ best, stop } = verdict(history, settings.early_stop));

    // One process finishes its step before it ends; several are told to end by their cluster.
    const interrupted = () => cluster.size === 1 && signal?.aborted === true;
    while (step < updates && !stop && !interrupted()) {
      const stepBegan = performance.now();
      const samples = samplesOf(step + 1, settings, estimator, learners.latentElements);
      const scale = lossScale?.scale;
      const applied = { gradNorms: [] as number[], skipped: false };
      // An estimator with several updates a step is rarely between two steps.
      whole = estimator.kind === "round" && cluster.size > 1 ? structuredClone(state()) : state();
      const apply = async ({ gradient, overflowed }: Learnt) => {
        if (estimator.kind === "update") whole = undefined;
        if (!overflowed) {
          applied.gradNorms.push(clipGradNorm(gradient, settings.optimizer.max_grad_norm));
          adamw(weights, gradient, optimizer, adamwOptions(settings));
          if (averaged && decay !== null) average(averaged, weights, decay, optimizer.step);
          requireFinite(weights, layout, "after the update, the weight");
          if (lossScale) keepScale(lossScale);
        } else if (lossScale) {
          const tried = lossScale.scale;
          applied.skipped = true;
          lowerScale(lossScale);
          requireFewSkipped(lossScale.skipped, tried);
        }
      };
      const next = () => ({ parameters: weights, scale: lossScale?.scale, base, kl });
      const playing = () => orEnd(cluster, playRound(workers, estimator, samples, remembered, next, apply));
      const round = await at(step + 1, playing);
      const { loss, rewards, parts } = round;
      step += 1;
      remembered = round.memory;
      cost = {
        unetCalls: cost.unetCalls + round.cost.unetCalls,
        rewardQueries: cost.rewardQueries + round.cost.rewardQueries,
      };
      whole = state();
      metrics = {
        step,
        epoch: Math.floor((step - 1) / updatesPerEpoch(settings.batch)),
        samples: step * settings.batch.total,
        loss,
        reward_mean: meanAndStd(rewards).mean,
        reward_std: meanAndStd(rewards).std,
        reward_queries: cost.rewardQueries,
        unet_calls: cost.unetCalls,
        ...(round.kl !== undefined && { kl: round.kl }),
        grad_norm: applied.gradNorms.length === 0 ? null : meanAndStd(applied.gradNorms).mean,
        ...(scale !== undefined && { loss_scale: scale }),
        ...(applied.skipped && { skipped: true as const }),
        seconds: (performance.now() - stepBegan) / 1000,
        peak_rss_bytes: process.resourceUsage().maxRSS * 1024,
        ...(parts && { rewards: partMeans(parts) }),
      };

      let evaluated: EvaluationResult | undefined;
      if (step % settings.evaluation.every === 0 || step === updates) {
        evaluated = await at(step, () => orEnd(cluster, evaluator.evaluate(tuned)));
        history.push(evaluatedAt(step, evaluated));
        ({ best, stop } = verdict(history, settings.early_stop));
        await tellPatiently({ kind: "evaluated", step, result: evaluated });
      }
      const told = {
        ...metrics,
        ...(evaluated && { eval_reward_mean: evaluated.mean, eval_reward_std: evaluated.std }),
        ...(evaluated?.parts && { eval_rewards: partMeans(evaluated.parts) }),
        ...(evaluated && watchedMetrics(evaluated)),
      };
      metrics = undefined;
      await tell({ kind: "stepped", metrics: told });

      const { every, keep_best } = settings.checkpoint;
      const ends = step === updates || stop !== undefined || interrupted();
      if (step % every === 0 || ends || (best === step && keep_best)) await tellPatiently(checkpointOf(state()));
    }
  } catch (error) {
    if (cluster.size === 1) throw error;
    // Whatever ended a run of several ranks, what its last whole step came to is not lost.
    cluster.fail(error);
    if (metrics) await tell({ kind: "stepped", metrics });
    if (whole && whole.step > savedStep) await tell(checkpointOf(whole));
    if (!(cluster.ended.reason instanceof StopRequest)) throw error;
  } finally {
    const closing = Promise.all(runtimes.map((runtime) => runtime.close()));
    // What was given up is still running, and the process ends before it.
    if (!cluster.ended.aborted) await closing;
  }
  const { updates } = settings.train;
  const interrupted = step < updates && !stop;
  const seconds = (performance.now() - began) / 1000;
  const result = { step, updates, interrupted, ...(stop && { stopped: stop }), best, seconds };
  await tell({ kind: "finished", result });
  return result;
}

/** All that a run is made of, and the checkpoint that it goes on from. */
async function open(
  settings: Settings,
  { resume, signal, reward: given, warn, onFetch }: TrainOptions & { warn(message: string): void },
) {
  const pipeline = await openModel(settings, { warn, onFetch, signal });
  const reward = given ?? (await openSettingsReward(settings, { warn, onFetch, signal }));
  const watch = await openWatch(settings, { warn, onFetch, signal });
  const estimator = await openEstimator(settings.estimator);
  const { layout, start: initial } = await openLearned(settings, pipeline, { resume, warn });
  const origin = {
    settings,
    model: await fingerprint(pipeline.weights),
    reward: await fingerprint(reward.weights),
  };
  const saved = resume === undefined ? undefined : await resumeFrom(resume, layout, origin);
  return { pipeline, reward, watch, estimator, layout, initial, origin, saved };
}

/** A new run's. The average starts where the weights do. */
async function newState(
  { size }: LearnedLayout,
  initial: () => Promise<Float32Array>,
  decay: number | null,
): Promise<TrainingState> {
  const weights = await initial();
  const averaged = decay === null ? null : weights.slice();
  const cost = { unetCalls: 0, rewardQueries: 0 };
  return { step: 0, weights, averaged, optimizer: adamwState(size), lossScale: null, history: [], cost };
}

/** The evaluation samples with the training's own programs where its batch is as large. */
async function openEvaluator(
  { lanes, layout }: Learners,
  reward: Reward,
  watch: Watch,
  settings: Settings,
  precision: Precision,
  cluster: Cluster,
): Promise<Evaluator> {
  const batch = evaluationBatch(settings);
  const options = { batch, layout, negativePrompt: settings.prompts.negative, precision };
  const samplerOf = async ({ runtime, engine: { sampler } }: (typeof lanes)[number]) =>
    sampler.batch === batch ? sampler : Sampler.compile(runtime, sampler.pipeline, settings.sampling, options);
  const drawing = lanes.map(async (lane) => ({ runtime: lane.runtime, sampler: await samplerOf(lane) }));
  return new Evaluator(await Promise.all(drawing), reward, settings, watch, cluster);
}

function allPrompts(settings: Settings): string[] {
  const { train, template } = settings.prompts;
  return [...train.map((prompt) => inTemplate(prompt, template)), ...evaluationPrompts(settings)];
}

/** A gradient that no scale brings into the range of halves is not going to fit. */
function requireFewSkipped(skipped: number, scale: number | undefined): void {
  if (skipped < MOST_SKIPPED) return;
  throw new InputError(
    "not-finite",
    `in float16 the gradient was not finite ${skipped} times in a row, at last with a loss scale of ${scale}; precision: float32 has the range for it`,
  );
}

function adamwOptions({ optimizer }: Settings) {
  const { learning_rate: learningRate, beta1, beta2, epsilon, weight_decay: weightDecay } = optimizer;
  return { learningRate, beta1, beta2, epsilon, weightDecay };
}

/** Numbers that are no longer finite end the run; what was saved before stays as it is. */
async function at<T>(step: number, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof InputError)) throw error;
    if (error instanceof InputError && error.code === "reward-failed") {
      throw new InputError(error.code, `step ${step}: ${error.message}`, error.facts);
    }
    const remedy =
      step === 0
        ? "Nothing was learnt yet: are the model's weights sound?"
        : "Start again with a lower optimizer.learning_rate, or keep the gradient of fewer steps (estimator.truncation)";
    throw new InputError(
      "not-finite",
      `step ${step}: ${error.message}. Training stopped; checkpoints saved before are kept. ${remedy}`,
    );
  }
}
