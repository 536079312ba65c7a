/**
 * Reads back the output of all trackers with the real programs: TensorBoard, an MLflow server with its Python client,
 * and `wandb sync`.
 *
 *     npm run parity:trackers -- --python path/to/python     (its packages: parity/requirements.txt)
 *
 * A run with made-up numbers and images is killed after step 3, resumes from its checkpoint at step 2, and ends at step
 * 4. Each step must be present once. W&B's own client uploads the offline run to the small W&B service of the tests.
 */
import { type ChildProcess, execFile, spawn } from "node:child_process";
import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { parseArgs, promisify } from "node:util";
import { captionOf, stepRow } from "../src/runs/trackers/index.js";
import { evaluationOf, metricsOf, PROMPTS, resumeRun, startRun } from "../test/made-up-run.js";
import { startWandb, type WandbServerRun } from "../test/wandb-server.js";

const { values } = parseArgs({ options: { python: { type: "string", default: "python" } } });
const python = path.resolve(values.python);
const KEY = "0123456789abcdef0123456789abcdef01234567";

const folder = await mkdtemp(path.join(tmpdir(), "alignprop-trackers-"));
const out = path.join(folder, "runs", "made-up");
const mlflow = await startMlflow();
const wandb = await startWandb(KEY);
try {
  const trackers = [
    "tensorboard" as const,
    { name: "mlflow" as const, uri: mlflow.address, experiment: "parity" },
    { name: "wandb" as const, mode: "offline" as const, project: "foxes", entity: "someone" },
  ];
  const killed = await startRun(out, trackers);
  await killed.stepsTo(3);
  await waitForMlflow(3);
  // A killed process may leave an incomplete record.
  await appendIncomplete(path.join(out, "tensorboard"));
  const again = await resumeRun(out);
  await again.stepsTo(4);
  const online = await startRun(path.join(folder, "runs", "online"), ["wandb"], {
    env: { WANDB_BASE_URL: wandb.address, WANDB_API_KEY: KEY },
  });
  await online.stepsTo(4);
  const warnings = [...killed.warnings, ...again.warnings, ...online.warnings];
  if (warnings.length > 0) throw new Error(`there were warnings: ${warnings.join("; ")}`);

  await writeFile(path.join(folder, "expected.json"), JSON.stringify(await expected()));
  const rows = await readBack();
  rows.push(await syncedRows());
  console.log("read back by                          scalars    images     captions   steps");
  for (const { by, scalars, images, captions, steps } of rows) {
    const numbers = [scalars, images, captions].map((n) => String(n).padEnd(10)).join(" ");
    console.log(`${by.padEnd(36)}  ${numbers}${steps.join(" ")}`);
  }
} finally {
  mlflow.server.kill();
  await wandb.close();
  await rm(folder, { recursive: true, maxRetries: 5 });
}

interface Row {
  readonly by: string;
  /** Number of equal values. A difference ends the script. */
  readonly scalars: number;
  readonly images: number;
  readonly captions: number;
  readonly steps: readonly number[];
}

/** The expected content of each step: numbers by name, and the pixels, prompt and caption of each image. */
async function expected(): Promise<object> {
  const steps = [];
  for (const step of [0, 1, 2, 3, 4]) {
    const { mean, std, images: generated, rewards, seeds } = evaluationOf(step);
    const base = { eval_reward_mean: mean, eval_reward_std: std };
    const scalars = step === 0 ? base : Object.fromEntries((await stepRow(out, metricsOf(step))).scalars);
    const shown = [0, 2, 4].includes(step) ? generated : [];
    const images = shown.map(({ width, height, pixels }, i) => {
      const labels = { prompt: PROMPTS[i] as string, seed: seeds[i] as number, reward: rewards[i] as number };
      return { ...labels, width, height, pixels: [...pixels], caption: captionOf({ ...labels, path: "" }) };
    });
    steps.push({ step, scalars, images });
  }
  return { steps };
}

/** Waits until MLflow has this step. */
async function waitForMlflow(step: number): Promise<void> {
  for (let tries = 0; tries < 600; tries++) {
    const { mlflow } = JSON.parse(await readFile(path.join(out, "trackers.json"), "utf8"));
    if (mlflow?.step === step) return;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  throw new Error(`MLflow did not receive step ${step} within a minute`);
}

async function appendIncomplete(tensorboard: string): Promise<void> {
  const [name = ""] = await readdir(tensorboard);
  await writeFile(path.join(tensorboard, name), new Uint8Array([200, 0, 0, 0, 0, 0, 0, 0, 1]), { flag: "a" });
}

async function readBack(): Promise<Row[]> {
  const run = promisify(execFile);
  const args = ["parity/check_trackers.py", folder, out, mlflow.address];
  const { stdout } = await run(python, args, { maxBuffer: 1 << 24, env: quiet() });
  return JSON.parse(stdout.slice(stdout.indexOf("[{"))) as Row[];
}

/** Uploads the offline run with W&B's own client, and compares it with the online run on the small service. */
async function syncedRows(): Promise<Row> {
  const [name = ""] = await readdir(path.join(out, "wandb"));
  const env = { ...quiet(), WANDB_BASE_URL: wandb.address, WANDB_API_KEY: KEY };
  await promisify(execFile)(python, ["-m", "wandb", "sync", path.join(out, "wandb", name)], { cwd: folder, env });
  const runs = [...wandb.runs.values()];
  const [online, synced] = ["online", "made-up"].map((display) => runs.find((run) => run.displayName === display));
  if (online === undefined || synced === undefined) throw new Error("a run was not uploaded");
  let [scalars, images, captions] = [0, 0, 0];
  for (const [step, row] of online.history) {
    const found = synced.history.get(step) ?? {};
    for (const [key, value] of Object.entries(row)) {
      if (["_timestamp", "_runtime"].includes(key)) continue;
      same(`step ${step}: ${key}`, found[key], value);
      if (key !== "pictures" && !key.startsWith("_")) scalars++;
    }
    const shown = row.pictures as { filenames: string[]; captions: string[] } | undefined;
    for (const file of shown?.filenames ?? []) {
      same(`step ${step}: ${file}`, contentOf(synced, file), contentOf(online, file));
      images++;
    }
    captions += shown?.captions.length ?? 0;
  }
  same("exit code", [online.exitcode, synced.exitcode], [0, 0]);
  same("settings", synced.config.lora, online.config.lora);
  return {
    by: "wandb sync, beside the online run",
    scalars,
    images,
    captions,
    steps: [...synced.history.keys()],
  };
}

function contentOf(run: WandbServerRun, file: string): string {
  const content = run.files.get(file);
  if (content === undefined) throw new Error(`${file} was not uploaded`);
  return content.toString("base64");
}

function same(name: string, found: unknown, expected: unknown): void {
  const [a, b] = [sorted(found), sorted(expected)];
  if (a !== b) throw new Error(`${name}: found ${a}, expected ${b}`);
}

function sorted(value: unknown): string {
  return JSON.stringify(value, (_, inner) =>
    inner !== null && typeof inner === "object" && !Array.isArray(inner)
      ? Object.fromEntries(Object.entries(inner).sort(([a], [b]) => (a < b ? -1 : 1)))
      : inner,
  );
}

async function startMlflow(): Promise<{ address: string; server: ChildProcess }> {
  const port = await freePort();
  const store = [
    "--backend-store-uri",
    `sqlite:///${folder}/mlflow.db`,
    "--artifacts-destination",
    `${folder}/artifacts`,
  ];
  const binding = ["--host", "127.0.0.1", "--port", String(port), "--workers", "1"];
  const server = spawn(python, ["-m", "mlflow", "server", ...store, ...binding], { env: quiet(), stdio: "ignore" });
  const address = `http://127.0.0.1:${port}`;
  for (let tries = 0; tries < 240; tries++) {
    const up = await fetch(`${address}/health`).then(
      ({ ok }) => ok,
      () => false,
    );
    if (up) return { address, server };
    await new Promise((resolve) => setTimeout(resolve, 500));
  }
  server.kill();
  throw new Error("the MLflow server did not start within two minutes");
}

function freePort(): Promise<number> {
  return new Promise((resolve) => {
    const probe = createServer().listen(0, "127.0.0.1", () => {
      const { port } = probe.address() as { port: number };
      probe.close(() => resolve(port));
    });
  });
}

/** Disables the telemetry of these programs. */
function quiet(): NodeJS.ProcessEnv {
  return { ...process.env, MLFLOW_DISABLE_TELEMETRY: "true", DO_NOT_TRACK: "true", WANDB_ERROR_REPORTING: "false" };
}
