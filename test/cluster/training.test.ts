/** Training on several ranks: `mpirun -n 2 alignprop train`. */
import { chmod, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test, vi } from "vitest";
import { STATE_FILE } from "../../src/train/checkpoint.js";
import type { StepMetrics } from "../../src/train/events.js";
import { openSafetensors } from "../../src/weights/safetensors.js";
import { readTensor } from "../../src/weights/source.js";
import { TINY_RECIPE } from "../tiny.js";
import { endRuns, heard, mpich, openMpi, type Run, trainHere } from "./launch.js";

// Every run starts several processes, each of which compiles its programs.
vi.setConfig({ testTimeout: 180_000 });

const mpi = openMpi.mpirun === undefined ? mpich : openMpi;
const missing = mpi.mpirun === undefined;
if (missing) console.warn("skipped: MPI is not installed (Debian and Ubuntu: apt install openmpi-bin)");

const scratch = await mkdtemp(join(tmpdir(), "alignprop-training-"));
afterAll(async () => {
  await endRuns();
  await rm(scratch, { recursive: true, force: true });
});

/** Writes a recipe that trains in seconds. Its batch sizes are divisible by 1, 2 and 3 ranks. */
async function recipe(name: string, changes: Readonly<Record<string, unknown>> = {}): Promise<string> {
  const file = join(scratch, `${name}.yaml`);
  const settings = {
    ...TINY_RECIPE,
    batch: { samples_per_epoch: 12, total: 6, per_device: 1 },
    prompts: { train: ["cat", "dog", "horse"], eval: ["two cats", "a cow", "a sheep", "a hen"], template: "a {}" },
    train: { updates: 5 },
    evaluation: { every: 5, batch: 1 },
    checkpoint: { every: 5 },
    ...changes,
  };
  await writeFile(file, JSON.stringify(settings));
  return file;
}

const out = (name: string) => join(scratch, name);

async function metricsOf(run: string): Promise<StepMetrics[]> {
  const text = await readFile(join(run, "metrics.jsonl"), "utf8");
  return text
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as StepMetrics);
}

async function parametersOf(run: string, step: number): Promise<Float32Array> {
  const name = `step-${String(step).padStart(6, "0")}`;
  const stored = (await openSafetensors(join(run, "checkpoints", name, STATE_FILE))).get("weights");
  if (!stored) throw new Error(`${run} has no step ${step}`);
  return (await readTensor(stored)).data as Float32Array;
}

/** ‖a − b‖ / ‖b‖ */
function distance(a: ArrayLike<number>, b: ArrayLike<number>): number {
  expect(a.length).toBe(b.length);
  const norm = (values: number[]) => Math.sqrt(values.reduce((sum, value) => sum + value ** 2, 0));
  const reference = Array.from(b);
  return norm(reference.map((value, i) => (a[i] as number) - value)) / norm(reference);
}

async function done(run: Promise<Run>): Promise<void> {
  const { code, stderr } = await (await run).ended;
  expect(code, stderr).toBe(0);
}

/** Compares two runs up to a step that both have saved. */
async function expectAlike(run: string, reference: string, step: number): Promise<void> {
  const [own, other] = [await metricsOf(run), (await metricsOf(reference)).slice(0, step)];
  expect(own.map(({ step }) => step)).toEqual(other.map(({ step }) => step));
  for (const key of ["loss", "reward_mean", "eval_reward_mean"] as const) {
    const values = (rows: StepMetrics[]) => rows.flatMap((row) => row[key] ?? []);
    expect(distance(values(own), values(other)), key).toBeLessThan(1e-5);
  }
  expect(distance(await parametersOf(run, step), await parametersOf(reference, step))).toBeLessThan(1e-5);
}

describe.skipIf(missing)(`training under ${mpi.name}`, async () => {
  const plain = await recipe("plain");
  const alone = out("alone");
  if (!missing) await done(trainHere(mpi, 1, [plain, "--out", alone, "--steps", "6"]));

  test("gives the same losses, evaluation and adapter on 1, 2 and 3 ranks", async () => {
    for (const ranks of [2, 3]) {
      const folder = out(`ranks-${ranks}`);
      await done(trainHere(mpi, ranks, [plain, "--out", folder]));
      await expectAlike(folder, alone, 5);
      // The images of the evaluation, from all ranks.
      const images = await readdir(join(folder, "samples/step-000005"));
      expect(images).toEqual(await readdir(join(alone, "samples/step-000005")));
    }
  });

  test("resumes with another number of ranks", async () => {
    const folder = out("ranks-3");
    await done(trainHere(mpi, 2, ["--resume", folder, "--steps", "6"]));
    await expectAlike(folder, alone, 6);
  });

  test("shares all rewards with an estimator that normalizes them", async () => {
    const ddpo = await recipe("ddpo", {
      estimator: { name: "ddpo", updates: 2, inner_epochs: 1, clip_range: 0.1 },
      sampling: { steps: 3, eta: 1 },
      train: { updates: 2 },
    });
    const [one, two] = [out("ddpo-1"), out("ddpo-2")];
    await done(trainHere(mpi, 1, [ddpo, "--out", one]));
    await done(trainHere(mpi, 2, [ddpo, "--out", two]));
    await expectAlike(two, one, 2);
  });

  /** Makes a run so long that the test can end it. */
  const endless = ["--steps", "9999", "--set", "evaluation.every=9999", "--set", "checkpoint.every=9999"];

  /** Starts a long run and waits for its first step. */
  async function underWay(folder: string, env = {}): Promise<Run> {
    const run = await trainHere(mpi, 2, [plain, "--out", folder, ...endless], env);
    await heard(run, /^step +1\//m);
    return run;
  }

  async function expectSaved(folder: string): Promise<void> {
    const saved = await readdir(join(folder, "checkpoints"));
    const last = (await metricsOf(folder)).at(-1)?.step ?? 0;
    expect(saved).toEqual([`step-${String(last).padStart(6, "0")}`]);
    expect((await parametersOf(folder, last)).every(Number.isFinite)).toBe(true);
  }

  test("saves the last step when the launcher gets SIGTERM, and can be resumed", async () => {
    const folder = out("interrupted");
    const run = await underWay(folder);
    run.child.kill("SIGTERM");
    const { errors, stdout } = await run.ended;
    expect(errors).toEqual([]);
    await expectSaved(folder);
    expect(stdout).toMatch(/Stopped after step \d+ of 9999/);
    const steps = String(((await metricsOf(folder)).at(-1)?.step as number) + 1);
    await done(trainHere(mpi, 1, ["--resume", folder, "--steps", steps]));
  });

  test("saves the last step and ends with one message when a rank hangs", async () => {
    const folder = out("hung");
    const run = await underWay(folder, { ALIGNPROP_MPI_LIMIT: "4" });
    process.kill(await rankUnder(run, 1), "SIGSTOP");
    const { code, errors } = await run.ended;
    expect(code).not.toBe(0);
    expect(errors).toEqual([expect.stringMatching(/^failed: .*rank 1 \(.+\).* 4 s/)]);
    await expectSaved(folder);
  });

  test("saves the last step and ends with one message when the rewards of one rank are not finite", async () => {
    const scorer = join(scratch, "scorer.sh");
    // The program is called once per image. The second rank scores 2 images of the evaluation and 3 of the first step,
    // and then gets NaN.
    await writeFile(
      scorer,
      `#!/bin/sh
rank=\${OMPI_COMM_WORLD_RANK:-$PMI_RANK}
echo >> "$0.$rank"
if [ $rank = 1 ] && [ $(wc -l < "$0.$rank") -gt 5 ]; then echo nan; else wc -c < "$1"; fi
`,
    );
    await chmod(scorer, 0o755);
    const scored = await recipe("scored", {
      reward: { name: "program", command: [scorer] },
      estimator: { name: "rwr", updates: 1 },
    });
    const folder = out("scored");
    const { code, errors, stdout } = await (await trainHere(mpi, 2, [scored, "--out", folder, "--json"])).ended;
    expect(errors).toEqual([expect.stringMatching(/^error: rank 1 \(.+\): step 2: reward program .*nan/)]);
    expect(code).toBe(2);
    const { error } = JSON.parse(stdout);
    expect(error).toMatchObject({ code: "reward-failed", rank: 1, step: 2, program: scorer });
    await expectSaved(folder);
  });

  test("refuses ranks with different settings and names the setting", async () => {
    const folder = join(scratch, "differing");
    await mkdir(folder);
    const other = await recipe("other", { lora: { rank: 4 } });
    // One launcher starts two different command lines.
    const again = [":", "-n", "1", process.execPath, join(import.meta.dirname, "../../dist/src/cli/main.js"), "train"];
    const own = [plain, "--out", join(folder, "run")];
    const { code, errors } = await (await trainHere(mpi, 1, [...own, ...again, other, "--out", join(folder, "run")]))
      .ended;
    expect(errors).toEqual([expect.stringMatching(/^error: lora\.rank is 4 on rank 1 \(.+\), but 2 on rank 0 \(.+\)/)]);
    expect(code).toBe(2);
    expect(await readdir(folder)).toEqual([]);
  });

  test("reports bad input once", async () => {
    for (const args of [[plain, "--set", "batch.total=7"], ["--bogus"]]) {
      const { code, errors, stdout } = await (await trainHere(mpi, 2, [...args, "--json"])).ended;
      expect(errors).toHaveLength(1);
      expect(errors[0]).toMatch(/^error: /);
      expect(code).toBe(2);
      const { error } = JSON.parse(stdout);
      expect(errors[0]).toContain(error.message.split("\n")[0]);
    }
  });
});

/** Finds the process id of a rank among the descendants of the launcher. */
async function rankUnder({ child }: Run, rank: number): Promise<number> {
  const of = (pid: number) => readFile(`/proc/${pid}/task/${pid}/children`, "utf8");
  const below = async (pid: number): Promise<number[]> => {
    const children = (await of(pid)).split(" ").filter(Boolean).map(Number);
    return [...children, ...(await Promise.all(children.map(below))).flat()];
  };
  for (const pid of await below(child.pid as number)) {
    const environment = await readFile(`/proc/${pid}/environ`, "utf8");
    if (environment.split("\0").some((entry) => new RegExp(`^(OMPI_COMM_WORLD_RANK|PMI_RANK)=${rank}$`).test(entry))) {
      return pid;
    }
  }
  throw new Error(`rank ${rank} is not running`);
}
