/**
 * AlignProp's training loop (Prabhudesai et al. 2023, arXiv 2310.03739, Algorithm 1):
 *
 *     θ: A ~ N(0, 1/r²), B = 0                                the adapter; everything else is frozen
 *     for each step:
 *       for each of its samples:
 *         x_T ~ N(0, 1), prompt c, truncation mask m
 *         x_{t-1} = DDIM(x_t, ε̂(x_t, t, c))                   with classifier-free guidance, storing x_t
 *         L = loss(reward(decode(x_0), c))
 *         g += dL/dx_0 back-propagated through DDIM and, where m is true, through ε̂ to θ
 *       θ ← AdamW(clip(g))
 *
 * `trainingStep` is the body for any estimator. With `precision: float16` the U-Net computes in float16 and θ stays in float32.
 * With `trainable: unet`, θ is the U-Net's own weights. Several ranks (`../cluster`) share the samples of each step and add up g.
 */
import { type Cluster, orEnd, singleProcess } from "../cluster/index.js";
import type { Settings } from "../config/index.js";
import { addCosts, countPlan, drawSamples, trainingStep } from "../engine/index.js";
import { checkpointFiles } from "./checkpoint.js";
import { summaryOf, verdict } from "./early-stop.js";
import type { TrainObserver, TrainResult } from "./events.js";
import { atStep, requireScored } from "./failure.js";
import { withPartsInCode } from "./in-code.js";
import { RunJournal } from "./journal.js";
import { stepMetrics, withEvaluation } from "./metrics.js";
import { openRun } from "./open-run.js";
import { optimizerUpdate } from "./optimizer-update.js";
import type { TrainOptions } from "./options.js";
import { compileRun } from "./programs.js";
import { exportedWeights } from "./state.js";

/**
 * Trains a model on a reward.
 *
 * @throws InputError for anything that the user can correct, before or during training
 * @example
 * const settings = await loadSettings({ recipe: "default" });
 * const { best } = await train(settings, (event) => {
 *   if (event.kind === "stepped") console.log(event.metrics.step, event.metrics.reward_mean);
 * });
 */
export async function train(
  settings: Settings,
  observer: TrainObserver,
  options: TrainOptions = {},
): Promise<TrainResult> {
  const { cluster = singleProcess(), signal } = options;
  const stop = () => cluster.stop();
  if (cluster.size > 1) signal?.addEventListener("abort", stop);
  try {
    return await run(withPartsInCode(settings, options), cluster.rank === 0 ? observer : () => {}, cluster, options);
  } catch (error) {
    cluster.fail(error);
    throw cluster.ended.reason ?? error;
  } finally {
    signal?.removeEventListener("abort", stop);
  }
}

/** Said after the first step of a call, whose gradient shows whether there is anything to learn from. */
const NO_GRADIENT =
  "the gradient of the first step is 0, so it changed nothing. Common causes: the reward does not depend on the image, such as " +
  "an ONNX file without the mean and standard deviation that it was trained with (try alignprop reward check); a clamp or a " +
  "target that every image has reached; one image per prompt in a rollout, whose advantage is 0";

async function run(
  settings: Settings,
  observer: TrainObserver,
  cluster: Cluster,
  options: TrainOptions,
): Promise<TrainResult> {
  const began = performance.now();
  const { setup, state, origin, base, work, runtimes, warnings } = await openRun(settings, cluster, options);
  const { estimator, pipeline, layout } = setup;
  const { steps } = settings.train;
  const journal = new RunJournal(
    observer,
    cluster,
    (state) => checkpointFiles(state, layout, origin, pipeline),
    state.step,
  );
  const klWeight = settings.kl.weight > 0 ? settings.kl.weight : undefined;
  let { best, stop } = verdict(state.history, settings.early_stop);
  // A single process finishes its step after an interrupt. Several ranks are stopped by their cluster.
  const interrupted = () => cluster.size === 1 && options.signal?.aborted === true;
  const isOver = () => state.step >= steps || stop !== undefined || interrupted();

  try {
    const compiling = orEnd(cluster, compileRun(runtimes, setup, work, cluster));
    const [{ workers, evaluator, latentElements }, plan] = await Promise.all([compiling, countPlan(setup, work)]);
    const evaluate = async () => {
      const result = await atStep(state.step, orEnd(cluster, evaluator.evaluate(exportedWeights(state))));
      state.history.push(summaryOf(state.step, result));
      ({ best, stop } = verdict(state.history, settings.early_stop));
      await journal.tellPatiently({ kind: "evaluated", step: state.step, result });
      return result;
    };

    const baseDiversity = state.history.find(({ step }) => step === 0)?.diversity;
    await journal.tellPatiently({ kind: "started", plan, step: state.step, baseDiversity });
    for (const message of warnings) await journal.tell({ kind: "warned", message });
    if (state.step === 0) await evaluate();

    let isChecked = false;
    while (!isOver()) {
      const stepBegan = performance.now();
      const lossScale = state.lossScale?.scale;
      const gradNorms: (number | null)[] = [];
      journal.beginStep(state, { copy: estimator.kind === "rollout" && cluster.size > 1 });

      const step = trainingStep({
        workers,
        estimator,
        samples: drawSamples(state.step + 1, settings, estimator, latentElements),
        estimatorState: state.estimatorState,
        request: () => ({
          parameters: state.weights,
          lossScale: state.lossScale?.scale,
          baseParameters: base,
          klWeight,
        }),
        update: (gradient) => {
          journal.beginUpdate(state);
          gradNorms.push(optimizerUpdate(state, gradient, settings, layout));
        },
      });
      const result = await atStep(state.step + 1, orEnd(cluster, step.then(requireScored(settings, estimator))));

      state.step += 1;
      state.estimatorState = result.estimatorState;
      state.cost = addCosts([state.cost, result.cost]);
      const seconds = (performance.now() - stepBegan) / 1000;
      const metrics = stepMetrics(state, { batch: settings.batch, result, gradNorms, lossScale, seconds });
      journal.endStep(state, metrics);
      if (!isChecked && metrics.grad_norm === 0) await journal.tell({ kind: "warned", message: NO_GRADIENT });
      isChecked = true;

      const isEvaluated = state.step % settings.evaluation.every === 0 || state.step === steps;
      await journal.tellStep(isEvaluated ? withEvaluation(metrics, await evaluate()) : metrics);

      const { every, keep_best } = settings.checkpoint;
      const isBest = keep_best && best === state.step;
      if (state.step % every === 0 || isBest || isOver()) await journal.save(state);
    }
  } catch (error) {
    await journal.rescue(error);
  } finally {
    const closing = Promise.all(runtimes.map((runtime) => runtime.close()));
    // After an early end of the cluster, abandoned work is still running, and the process will end before it.
    if (!cluster.ended.aborted) await closing;
  }
  const seconds = (performance.now() - began) / 1000;
  const isInterrupted = state.step < steps && !stop;
  const result = { step: state.step, steps, interrupted: isInterrupted, ...(stop && { stopped: stop }), best, seconds };
  await journal.tell({ kind: "finished", result });
  return result;
}
