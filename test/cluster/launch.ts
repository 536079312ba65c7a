/** Runs `rank.js` under a real `mpirun`. */
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdir, mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

export interface Implementation {
  readonly name: "Open MPI" | "MPICH";
  /** The `mpirun` command, or undefined if it is not installed. */
  readonly mpirun: string | undefined;
  /** The Debian package. */
  readonly install: string;
  readonly library: string;
  /** Arguments before `node`. */
  ranks(count: number): string[];
}

/** On Debian, both implementations can be installed side by side. Elsewhere, `mpirun` is one of them. */
function find(own: string, version: RegExp): string | undefined {
  for (const program of [own, "mpirun"]) {
    try {
      if (version.test(execFileSync(program, ["--version"], { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] })))
        return program;
    } catch {
      // It is not installed.
    }
  }
  return undefined;
}

export const openMpi: Implementation = {
  name: "Open MPI",
  mpirun: find("mpirun.openmpi", /Open MPI/),
  install: "openmpi-bin",
  library: "libmpi.so.40",
  ranks: (count) => ["--oversubscribe", "-n", String(count)],
};

export const mpich: Implementation = {
  name: "MPICH",
  mpirun: find("mpirun.mpich", /HYDRA/i),
  install: "mpich",
  library: "libmpich.so.12",
  ranks: (count) => ["-n", String(count)],
};

/** Seconds of silence after which a rank counts as lost in these tests. */
export const LIMIT = 2;

/** Tests in containers run as root. Without the binding policy, Open MPI binds concurrent runs to the same cores. */
const OPEN_MPI_SETTINGS = {
  OMPI_ALLOW_RUN_AS_ROOT: "1",
  OMPI_ALLOW_RUN_AS_ROOT_CONFIRM: "1",
  OMPI_MCA_hwloc_base_binding_policy: "none",
};

export interface Run {
  readonly child: ChildProcess;
  /** The folder that the ranks write their results to. */
  readonly folder: string;
  /** The output so far. */
  readonly said: { readonly stdout: string; readonly stderr: string };
  /** Resolves when `mpirun` exits. */
  readonly ended: Promise<Outcome>;
}

export interface Outcome {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
  /** The lines of stderr that report an error of alignprop. */
  readonly errors: string[];
  /** The files that the ranks wrote. */
  readonly files: string[];
  /** Reads the result of a rank. */
  found(rank: number): Promise<unknown>;
  /** Reads the failure that the ranks reported. */
  failure(): Promise<ReportedFailure>;
}

/** A `ClusterFailure` or `InputError` as `rank.js` reports it. */
export interface ReportedFailure {
  readonly message: string;
  /** The ranks that failed; undefined if the ranks never met. */
  readonly ranks?: number[];
  readonly code?: string;
  readonly facts: Record<string, unknown>;
}

const root = join(import.meta.dirname, "../..");
const rankScript = join(import.meta.dirname, "rank.js");

/** The command line. */
const main = join(root, "dist/src/cli/main.js");

const running = new Set<ChildProcess>();
const folders: string[] = [];

/** Ends the runs that a timed-out test has left behind, and deletes the folders of all runs. */
export async function endRuns(): Promise<void> {
  for (const child of running) child.kill("SIGTERM");
  await Promise.all(folders.map((folder) => rm(folder, { recursive: true, force: true })));
}

/** Starts `command`, the launcher with its options, followed by Node and its arguments. */
async function start(
  command: readonly string[],
  args: (folder: string) => readonly string[],
  env: Readonly<Record<string, string>> = {},
): Promise<Run> {
  const scratch = await mkdtemp(join(tmpdir(), "alignprop-ranks-"));
  folders.push(scratch);
  const [folder, session] = [join(scratch, "found"), join(scratch, "session")];
  await Promise.all([mkdir(folder), mkdir(session)]);
  const [program = "", ...options] = [...command, process.execPath, ...args(folder)];
  const child = spawn(program, options, {
    // All runs of a user share $TMPDIR/ompi.<host>.<uid>. Open MPI 4.1 fails with "mkdir: File exists" if two of them
    // create it at the same moment, so each run gets its own.
    env: { ...process.env, ...OPEN_MPI_SETTINGS, TMPDIR: session, ALIGNPROP_MPI_LIMIT: String(LIMIT), ...env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  running.add(child);
  const said = { stdout: "", stderr: "" };
  for (const stream of ["stdout", "stderr"] as const) {
    child[stream].on("data", (text) => {
      said[stream] += text;
    });
  }
  const ended = new Promise<Outcome>((resolve, reject) => {
    child.on("error", reject);
    child.on("close", async (code) => {
      running.delete(child);
      const errors = said.stderr.split("\n").filter((line) => /^(error|failed): /.test(line));
      const files = (await readdir(folder)).sort();
      const read = async (name: string) => JSON.parse(await readFile(join(folder, name), "utf8"));
      const found = (rank: number) => read(`rank-${rank}.json`);
      resolve({ code, ...said, errors, files, found, failure: () => read("failure.json") });
    });
  });
  return { child, folder, said, ended };
}

/** Runs a scenario of `rank.js` under the launcher `command`. */
export function launch(
  command: readonly string[],
  scenario: string,
  env?: Readonly<Record<string, string>>,
): Promise<Run> {
  return start(command, (folder) => [rankScript, scenario, folder], env);
}

/** Runs a scenario of `rank.js` in `ranks` processes on this machine. */
export function runHere(
  implementation: Implementation,
  ranks: number,
  scenario: string,
  env?: Readonly<Record<string, string>>,
): Promise<Run> {
  return launch([implementation.mpirun ?? "", ...implementation.ranks(ranks)], scenario, env);
}

/** Runs `alignprop train` in `ranks` processes on this machine, with a limit far above the duration of a slow step. */
export function trainHere(
  implementation: Implementation,
  ranks: number,
  args: readonly string[],
  env?: Readonly<Record<string, string>>,
): Promise<Run> {
  return start([implementation.mpirun ?? "", ...implementation.ranks(ranks)], () => [main, "train", ...args], {
    ALIGNPROP_MPI_LIMIT: "30",
    ...env,
  });
}

/** Waits until stderr matches. */
export async function heard({ said, child }: Run, pattern: RegExp): Promise<void> {
  while (!pattern.test(said.stderr)) {
    if (child.exitCode !== null) throw new Error(`ended early: ${said.stderr}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** Waits until a rank has written its process id, and returns it. */
export async function pidOf({ folder, child, said }: Run, rank: number): Promise<number> {
  const file = join(folder, `rank-${rank}.json`);
  for (;;) {
    const text = existsSync(file) ? await readFile(file, "utf8") : "";
    if (text.endsWith("}")) return (JSON.parse(text) as { pid: number }).pid;
    if (child.exitCode !== null) throw new Error(`the run ended before rank ${rank} started: ${said.stderr}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
