/** From the command `alignprop train` to the start of the first training step. */
import { rmSync } from "node:fs";
import { mkdtemp } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { type GeneratedModel, weightFiles } from "../folders.js";
import { peerScript, script } from "../scripts.js";
import { failure, isDisturbed, median, reported, showGigabytes, showRatio, showTime, table } from "../summary.js";
import { type Case, type CaseContext, type Job, type Measurement, PEER_ENV } from "./case.js";

interface StartupCase {
  readonly name: string;
  readonly about: string;
  readonly model?: GeneratedModel;
  readonly settings: readonly string[];
}

const CASES: readonly StartupCase[] = [
  {
    name: "startup-embedded",
    about:
      "From the command `alignprop train` to the first training step, for the default recipe on the embedded model (an evaluation of 24 images comes before that step).",
    settings: [],
  },
  {
    name: "startup-sd15",
    about:
      "From the command `alignprop train` to the first training step at the size of Stable Diffusion 1.5 (float32 files): one image of 256x256 pixels, 4 denoising steps, of which the last one is differentiated (an evaluation of one image comes before that step).",
    model: "sd15-float32",
    settings: [
      "sampling.height=256",
      "sampling.width=256",
      "sampling.steps=4",
      "batch.samples_per_epoch=1",
      "batch.total=1",
      "batch.per_device=1",
      "evaluation={ batch: 1, seeds_per_prompt: 1 }",
      "prompts.eval=[cat]",
      "estimator.truncation={ mode: fixed, k: 1 }",
    ],
  },
];

const [FIRST, SECOND] = ["first time, files not in memory", "second time"];
/** The lines that the command prints once all programs are compiled, and when it has evaluated the base model. */
const MILESTONES = { ready: /^training .* trainable parameters/, evaluated: /evaluation reward .* base model/ };

async function jobs({ model, settings }: StartupCase, { folder, threads, python }: CaseContext): Promise<Job[]> {
  const modelFolder = model ? path.join(folder, model) : "models/emoji-64";
  const files = [...(await weightFiles(modelFolder)), ...(await weightFiles("models/rewards"))];
  const home = await mkdtemp(path.join(tmpdir(), "alignprop-startup-"));
  process.once("exit", () => rmSync(home, { recursive: true, force: true }));
  const cache = path.join(home, "cache");
  const train = (variant: string): Job => {
    const out = path.join(home, variant);
    return {
      side: "alignprop",
      variant,
      command: [
        ...[process.execPath, script("../src/cli/main.js"), "train", "--model", modelFolder, "--steps", "1"],
        ...["--threads", String(threads), "--out", out],
        ...settings.flatMap((setting) => ["--set", setting]),
      ],
      // What the first run may leave in a cache is there for the second, and for no other.
      env: { XDG_CACHE_HOME: cache },
      removed: variant === FIRST ? [out, cache] : [out],
      milestones: MILESTONES,
      until: "evaluated",
      ...(variant === FIRST && { uncached: files }),
    };
  };
  const load = (variant: string): Job => ({
    side: "PyTorch",
    variant,
    env: PEER_ENV,
    command: [
      ...[python ?? "", peerScript("peer.py"), "--load-only", "--model", modelFolder, "--threads", String(threads)],
      ...["--reward-clip", "models/rewards/clip", "--reward-head", "models/rewards/aesthetic/model.safetensors"],
    ],
    ...(variant === FIRST && { uncached: files }),
  });
  return [train(FIRST), train(SECOND), ...(python ? [load(FIRST), load(SECOND)] : [])];
}

/** Seconds until everything is loaded, as the process says or as its output shows. */
const readySeconds = (one: Measurement) => one.milestones?.ready ?? reported(one, "load_seconds");

/** Seconds until the evaluation before the first training step is done; PyTorch has none. */
const stepSeconds = (one: Measurement) => one.milestones?.evaluated;

function show(measured: readonly Measurement[]): string[] {
  const seconds = (side: Measurement["side"], variant: string, of: (one: Measurement) => number | undefined) => {
    const found = measured
      .filter((one) => one.side === side && one.variant === variant && !isDisturbed(one))
      .flatMap((one) => of(one) ?? []);
    return found.length > 0 ? median(found) : undefined;
  };
  const rows = [FIRST, SECOND].map((variant) => {
    const ours = seconds("alignprop", variant, readySeconds);
    const theirs = seconds("PyTorch", variant, readySeconds);
    const step = seconds("alignprop", variant, stepSeconds);
    const ratio = ours && theirs ? ours / theirs : undefined;
    const has = (side: Measurement["side"]) => measured.some((one) => one.side === side && one.variant === variant);
    const [hasOurs, hasTheirs] = [has("alignprop"), has("PyTorch")];
    return [variant, showTime(ours, hasOurs), showTime(theirs, hasTheirs), showRatio(ratio), showTime(step, hasOurs)];
  });
  const failed = measured.filter((one) => readySeconds(one) === undefined);
  const peaks = measured.filter(({ side }) => side === "alignprop").flatMap((one) => one.peak_rss_bytes ?? []);
  return [
    ...table(["", "alignprop: loaded and compiled", "PyTorch: loaded", "ratio", "alignprop: evaluated too"], rows),
    "",
    "PyTorch is loaded when model, reward, adapter and optimizer are in memory. It compiles nothing and evaluates nothing here.",
    ...(peaks.length > 0
      ? [`The peak of alignprop up to the first step is ${showGigabytes(Math.max(...peaks))}.`]
      : []),
    ...failed.map((one) => `${one.side}, ${one.variant}: ${failure(one)}.`),
  ];
}

export const startupCases: readonly Case[] = CASES.map((given) => ({
  name: given.name,
  about: given.about,
  ...(given.model && { models: [given.model] }),
  jobs: (context) => jobs(given, context),
  show,
}));
