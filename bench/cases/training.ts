/** Whole training steps: text encoding, sampling with guidance, decoding, reward, backward pass and optimizer. */
import path from "node:path";
import type { MemoryPlan } from "../../src/engine/index.js";
import { type GeneratedModel, weightFiles } from "../folders.js";
import { peerScript, script } from "../scripts.js";
import { bestOfPeer, comparison, failure, shareOfProducts, showGigabytes } from "../summary.js";
import { type Case, type CaseContext, type Job, type Measurement, PEER_ENV, productsJob } from "./case.js";

interface TrainingCase {
  readonly name: string;
  readonly about: string;
  /** Denoising steps of the chain. */
  readonly steps: number;
  /** How many of the last denoising steps are differentiated. */
  readonly k: number;
  readonly batch: number;
  /** Pixels along each side; left out, those that the model was trained at. */
  readonly size?: number;
  /** Generated models of both sides; left out, the embedded one. */
  readonly ours?: GeneratedModel;
  readonly peer?: GeneratedModel;
  /** Memory budgets of our trainer: a size, `null` for none, `least` for the smallest that its plan accepts. */
  readonly budgets: readonly string[];
  readonly peerVariants: readonly PeerVariant[];
  /** Timed steps of a process. */
  readonly repeat: number;
  readonly maxRounds?: number;
  /** Runs ours again in a memory cgroup of this share of the peer's smallest peak. */
  readonly limit?: number;
}

interface PeerVariant {
  readonly checkpointing: "step" | "none";
  readonly format?: "channels_last";
  readonly compile?: true;
}

/** Everything that a small model has time for. */
const ALL_VARIANTS: readonly PeerVariant[] = [
  { checkpointing: "step" },
  { checkpointing: "none" },
  { checkpointing: "step", format: "channels_last" },
  { checkpointing: "none", format: "channels_last" },
  { checkpointing: "none", compile: true },
];
const LARGE_VARIANTS: readonly PeerVariant[] = [{ checkpointing: "step" }, { checkpointing: "none" }];

const EMBEDDED = { steps: 10, batch: 8, budgets: ["null", "least"], peerVariants: ALL_VARIANTS, repeat: 5 } as const;
const SD15 = { steps: 4, batch: 1, peerVariants: LARGE_VARIANTS, repeat: 2, maxRounds: 2 } as const;
const SD15_256 = { ...SD15, size: 256, budgets: ["null", "least"], peer: "sd15-float32", limit: 0.5 } as const;

const CASES: readonly TrainingCase[] = [
  {
    name: "embedded-k1",
    about:
      "A training step of the embedded model: 8 images of 64x64 pixels, 10 denoising steps, of which the last one is differentiated.",
    k: 1,
    ...EMBEDDED,
  },
  {
    name: "embedded-all",
    about:
      "A training step of the embedded model: 8 images of 64x64 pixels, 10 denoising steps, all of them differentiated.",
    k: 10,
    ...EMBEDDED,
  },
  {
    name: "sd15-256-k1",
    about:
      "A training step at the size of Stable Diffusion 1.5, float32 files: one image of 256x256 pixels, 4 denoising steps, of which the last one is differentiated.",
    k: 1,
    ours: "sd15-float32",
    ...SD15_256,
  },
  {
    name: "sd15-256-all",
    about:
      "A training step at the size of Stable Diffusion 1.5, float32 files: one image of 256x256 pixels, 4 denoising steps, all of them differentiated.",
    k: 4,
    ours: "sd15-float32",
    ...SD15_256,
  },
  {
    name: "sd15-256-k1-f16",
    about:
      "The same as sd15-256-k1 with float16 files here. Both sides compute in float32, and PyTorch reads the float32 files.",
    k: 1,
    ours: "sd15-float16",
    ...SD15_256,
  },
  {
    name: "sd15-256-all-f16",
    about:
      "The same as sd15-256-all with float16 files here. Both sides compute in float32, and PyTorch reads the float32 files.",
    k: 4,
    ours: "sd15-float16",
    ...SD15_256,
  },
  {
    name: "sd15-512-k1",
    about:
      "A training step at the size of Stable Diffusion 1.5 in 8 GB, float16 files here: one image of 512x512 pixels, 4 denoising steps, of which the last one is differentiated.",
    k: 1,
    size: 512,
    ours: "sd15-float16",
    peer: "sd15-float32",
    ...SD15,
    budgets: ["8GB"],
    repeat: 1,
    maxRounds: 1,
  },
];

const REWARDS = "models/rewards";

function common({ steps, k, batch, size, repeat }: TrainingCase, { threads }: CaseContext): string[] {
  const options = { steps, k, batch, size, repeat, threads };
  return Object.entries(options).flatMap(([name, value]) => (value === undefined ? [] : [`--${name}`, String(value)]));
}

const modelPath = (model: GeneratedModel | undefined, { folder }: CaseContext) =>
  model ? path.join(folder, model) : "models/emoji-64";

function ourCommand(given: TrainingCase, context: CaseContext, memory: string): string[] {
  const model = modelPath(given.ours, context);
  return [process.execPath, script("update.js"), "--model", model, "--memory", memory, ...common(given, context)];
}

const budgetName = (budget: string) =>
  ({ null: "no memory budget", least: "smallest memory budget" })[budget] ?? `memory ${budget}`;

const ourJob =
  (given: TrainingCase, context: CaseContext) =>
  (budget: string): Job => ({
    side: "alignprop",
    variant: budgetName(budget),
    command: ourCommand(given, context, budget),
  });

function peerJob(given: TrainingCase, context: CaseContext, python: string, variant: PeerVariant): Job {
  const { checkpointing, format = "contiguous", compile = false } = variant;
  return {
    side: "PyTorch",
    variant: [
      checkpointing === "step" ? "checkpointing" : "no checkpointing",
      ...(variant.format ? [variant.format] : []),
      ...(compile ? ["torch.compile"] : []),
    ].join(", "),
    env: PEER_ENV,
    command: [
      python,
      peerScript("peer.py"),
      ...["--model", modelPath(given.peer, context)],
      ...["--reward-clip", path.join(REWARDS, "clip")],
      ...["--reward-head", path.join(REWARDS, "aesthetic/model.safetensors")],
      ...["--checkpointing", checkpointing, "--memory-format", format],
      ...(compile ? ["--compile"] : []),
      ...common(given, context),
    ],
  };
}

function trainingCase(given: TrainingCase): Case {
  const { name, about, ours, peer, maxRounds, limit } = given;
  return {
    name,
    about,
    models: [ours, peer].filter((model) => model !== undefined),
    ...(maxRounds !== undefined && { maxRounds }),
    jobs: (context) => [
      productsJob(context),
      ...given.budgets.map(ourJob(given, context)),
      ...(context.python
        ? given.peerVariants.map((variant) => peerJob(given, context, context.python as string, variant))
        : []),
    ],
    ...(limit !== undefined && {
      following: (context: CaseContext, measured: readonly Measurement[]) =>
        limitedJobs(given, limit, context, measured),
    }),
    show: (measured) => [
      ...comparison(measured, "a training step"),
      "",
      ...shareOfProducts(measured),
      ...plans(measured),
      ...limited(measured),
    ],
  };
}

/** Share of a cgroup's limit that our trainer gets as its memory budget: the plan is an estimate. */
const HEADROOM = 0.9;

/** Our trainer in a cgroup of a share of the peer's smallest peak. */
async function limitedJobs(
  given: TrainingCase,
  share: number,
  context: CaseContext,
  measured: readonly Measurement[],
): Promise<Job[]> {
  const peak = bestOfPeer(measured, "resident");
  if (!peak) return [];
  const limitBytes = Math.floor(share * peak.value);
  // Pages of files that are in memory already would not be charged to the cgroup.
  const files = await weightFiles(modelPath(given.ours, context));
  return [
    {
      side: "alignprop",
      variant: `in a cgroup of ${share} of PyTorch's smallest peak`,
      limitBytes,
      uncached: files,
      command: ourCommand({ ...given, repeat: 1 }, context, String(Math.floor(HEADROOM * limitBytes))),
    },
  ];
}

/** What the trainer planned to hold in memory, and what it then held. */
function plans(measured: readonly Measurement[]): string[] {
  const planned = measured.flatMap(({ variant, report, cgroup, peak_rss_bytes }) =>
    report?.plan !== undefined && cgroup === undefined
      ? [{ variant, peak_rss_bytes, plan: report.plan as Partial<MemoryPlan> }]
      : [],
  );
  return [...new Map(planned.map((one) => [one.variant, one])).values()].map(({ variant, peak_rss_bytes, plan }) => {
    const { expectedBytes, maxSavedCalls = 0, replicas = 1 } = plan;
    return (
      `${variant}: the plan expected ${showGigabytes(expectedBytes)} and the peak was ${showGigabytes(peak_rss_bytes ?? undefined)}; ` +
      `${replicas} replica${replicas === 1 ? "" : "s"}, each saves the residuals of at most ${maxSavedCalls} U-Net calls at once.`
    );
  });
}

function limited(measured: readonly Measurement[]): string[] {
  return measured
    .filter(({ cgroup }) => cgroup !== undefined)
    .map((one) => {
      const { limit_bytes, peak_bytes } = one.cgroup as NonNullable<Measurement["cgroup"]>;
      const [seconds] = (one.report?.seconds as number[] | undefined) ?? [];
      const outcome =
        one.failed === undefined
          ? `completes: ${seconds?.toFixed(1)} s for a step, ${showGigabytes(peak_bytes ?? undefined)} charged to the group`
          : failure(one);
      return `${one.variant} (${showGigabytes(limit_bytes)}): ${outcome}.`;
    });
}

export const trainingCases: readonly Case[] = CASES.map(trainingCase);
