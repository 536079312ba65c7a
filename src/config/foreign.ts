/** Recognizes the configurations of TRL and of AlignProp's own code, and answers with the settings that mean the same. */
import { InputError } from "../errors/index.js";

/** The setting for each key of another configuration; null if there is none, because nothing needs to be set. */
type Counterparts = Readonly<Record<string, string | null>>;

/** What AlignPropConfig and DDPOConfig of TRL share. */
const TRL_SHARED: Counterparts = {
  exp_name: null,
  run_name: "name",
  seed: "seed",
  log_with: "trackers",
  tracker_kwargs: "trackers",
  tracker_project_name: "trackers",
  accelerator_kwargs: null,
  project_kwargs: null,
  logdir: "out",
  num_epochs: "train.epochs",
  save_freq: "checkpoint.every",
  num_checkpoint_limit: "checkpoint.keep_last",
  mixed_precision: "precision",
  allow_tf32: null,
  resume_from: "train --resume FOLDER",
  sample_num_steps: "sampling.steps",
  sample_eta: "sampling.eta",
  sample_guidance_scale: "sampling.guidance_scale",
  train_batch_size: "batch.per_device",
  train_use_8bit_adam: null,
  train_learning_rate: "optimizer.learning_rate",
  train_adam_beta1: "optimizer.beta1",
  train_adam_beta2: "optimizer.beta2",
  train_adam_weight_decay: "optimizer.weight_decay",
  train_adam_epsilon: "optimizer.epsilon",
  train_gradient_accumulation_steps: "batch.total (per_device times this, times the devices)",
  train_max_grad_norm: "optimizer.max_grad_norm",
  negative_prompts: "prompts.negative",
  push_to_hub: "alignprop push",
};

interface Foreign {
  /** Continues "is a configuration of". */
  readonly name: string;
  readonly keys: Counterparts;
  /** Keys that only this configuration has. */
  readonly own: readonly string[];
  /** Recipes that do the same. */
  readonly recipes: readonly string[];
}

const FOREIGN: readonly Foreign[] = [
  {
    name: "TRL's AlignPropConfig",
    keys: {
      ...TRL_SHARED,
      log_image_freq: "evaluation.every",
      truncated_backprop_timestep: "estimator.truncation",
      truncated_rand_backprop_minmax: "estimator.truncation: { mode: per-step, low, high }",
      backprop_strategy: "estimator.truncation.mode",
      backprop_kwargs: "estimator.truncation",
    },
    own: ["truncated_backprop_timestep", "truncated_rand_backprop_minmax", "backprop_strategy", "backprop_kwargs"],
    recipes: ["aesthetic", "hps"],
  },
  {
    name: "TRL's DDPOConfig",
    keys: {
      ...TRL_SHARED,
      sample_batch_size: "batch.per_device",
      sample_num_batches_per_epoch: "batch.samples_per_epoch",
      train_num_inner_epochs: "estimator.inner_epochs",
      train_cfg: null,
      train_adv_clip_max: "estimator.advantage_clip",
      train_clip_range: "estimator.clip_range",
      train_timestep_fraction: null,
      per_prompt_stat_tracking: "estimator.buffer_size (0 for no statistics)",
      per_prompt_stat_tracking_buffer_size: "estimator.buffer_size",
      per_prompt_stat_tracking_min_count: "estimator.min_count",
      async_reward_computation: null,
      max_workers: null,
    },
    own: ["train_clip_range", "train_adv_clip_max", "per_prompt_stat_tracking", "sample_num_batches_per_epoch"],
    recipes: ["ddpo"],
  },
  {
    name: "AlignProp's config/align_prop.py",
    keys: {
      run_name: "name",
      seed: "seed",
      logdir: "out",
      debug: null,
      num_epochs: "train.epochs",
      save_freq: "checkpoint.every",
      num_checkpoint_limit: "checkpoint.keep_last",
      mixed_precision: "precision",
      allow_tf32: null,
      full_finetuning: "trainable",
      use_lora: "trainable",
      lora_rank: "lora.rank",
      pretrained: "model",
      steps: "sampling.steps",
      sd_guidance_scale: "sampling.guidance_scale",
      prompt_fn: "prompts.train",
      eval_prompt_fn: "prompts.eval",
      reward_fn: "reward",
      aesthetic_target: "loss.target",
      aesthetic_grad_scale: "loss.scale",
      loss_coeff: "loss.scale",
      grad_checkpoint: null,
      same_evaluation: null,
      truncated_backprop: "estimator.truncation",
      truncated_backprop_rand: "estimator.truncation",
      truncated_backprop_minmax: "estimator.truncation: { mode: per-step, low, high }",
      trunc_backprop_timestep: "estimator.truncation",
      only_eval: "alignprop evaluate",
      soup_inference: "alignprop mix",
      resume_from: "train --resume FOLDER",
      resume_from_2: "alignprop mix",
      visualize_train: null,
      visualize_eval: null,
      train: "batch and optimizer",
    },
    own: ["sd_guidance_scale", "prompt_fn", "reward_fn", "trunc_backprop_timestep", "truncated_backprop_minmax"],
    recipes: ["aesthetic", "aesthetic-k1", "hps", "hps-k1", "evaluate", "evaluate-soup"],
  },
];

/** So many keys of another configuration are no accident. */
const LEAST_KEYS = 3;

/**
 * @param known the top-level keys of a recipe
 * @throws InputError `recipe-malformed` if the mapping is a configuration of another tool
 */
export function refuseForeign(
  settings: Readonly<Record<string, unknown>>,
  known: readonly string[],
  { name, path }: { readonly name: string; readonly path?: string | undefined },
): void {
  const keys = Object.keys(settings).filter((key) => !known.includes(key));
  const found = FOREIGN.map((foreign) => ({
    foreign,
    keys: keys.filter((key) => Object.hasOwn(foreign.keys, key)),
    own: foreign.own.filter((key) => Object.hasOwn(settings, key)).length,
  }))
    .filter(({ keys }) => keys.length >= LEAST_KEYS)
    .sort((a, b) => b.own - a.own || b.keys.length - a.keys.length)[0];
  if (!found) return;
  const { foreign } = found;
  const given = Object.keys(settings).filter((key) => Object.hasOwn(foreign.keys, key));
  const width = Math.max(...given.map((key) => key.length));
  const lines = given.map((key) => `${key.padEnd(width)}  ${foreign.keys[key] ?? "(not needed)"}`);
  const [first] = foreign.recipes;
  throw new InputError(
    "recipe-malformed",
    `${name}: is a configuration of ${foreign.name}, not a recipe. Recipes that do the same: ${foreign.recipes.join(", ")} ` +
      `(npx alignprop train ${first}). Its keys are these settings of a recipe:\n  ${lines.join("\n  ")}`,
    { path, found: foreign.name, keys: given, recipes: [...foreign.recipes], suggestion: first },
  );
}

/** Whether a text is AlignProp's configuration, which is a Python program. */
export function isPythonConfig(text: string): boolean {
  return /^\s*(import|from)\s+ml_collections\b/m.test(text) || /\bml_collections\.ConfigDict\(/.test(text);
}

/** @throws InputError `recipe-malformed` */
export function refusePython({ name, path }: { readonly name: string; readonly path: string }): never {
  const recipes = FOREIGN.at(-1)?.recipes ?? [];
  throw new InputError(
    "recipe-malformed",
    `${name}: is a Python program, such as AlignProp's config/align_prop.py, not a recipe. Recipes with its numbers: ` +
      `${recipes.join(", ")} (npx alignprop train ${recipes[0]}).`,
    { path, found: "Python", recipes: [...recipes], suggestion: recipes[0] },
  );
}
