/** Runs `rank.js` under a real `mpirun`. */
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdtemp, readdir, readFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

export interface Implementation {
  readonly name: "Open MPI" | "MPICH";
  /** Its `mpirun`, or undefined where it is not installed. */
  readonly mpirun: string | undefined;
  readonly install: string;
  readonly library: string;
  /** Arguments before `node`. */
  ranks(count: number): string[];
}

/** Debian lets both be installed side by side; elsewhere `mpirun` is one of them. */
function find(own: string, sign: RegExp): string | undefined {
  for (const program of [own, "mpirun"]) {
    try {
      if (sign.test(execFileSync(program, ["--version"], { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] })))
        return program;
    } catch {
      // Not there, or another program of that name.
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

/** Seconds of silence after which a rank is lost, in these tests. */
export const LIMIT = 2;

/** For tests in containers, which are root; and without it Open MPI binds several runs at once to the same cores. */
const OPEN_MPI_SETTINGS = {
  OMPI_ALLOW_RUN_AS_ROOT: "1",
  OMPI_ALLOW_RUN_AS_ROOT_CONFIRM: "1",
  OMPI_MCA_hwloc_base_binding_policy: "none",
};

export interface Run {
  readonly child: ChildProcess;
  /** Where ranks leave what they found. */
  readonly folder: string;
  /** So far. */
  readonly said: { readonly stdout: string; readonly stderr: string };
  /** Resolves at the end of `mpirun`. */
  readonly ended: Promise<Outcome>;
}

export interface Outcome {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
  /** Lines of stderr that are this program's own messages. */
  readonly errors: string[];
  /** Files that ranks wrote. */
  readonly files: string[];
  found(rank: number): Promise<unknown>;
}

const root = join(import.meta.dirname, "../..");
const rankScript = join(import.meta.dirname, "rank.js");

/** The program that people start. */
const main = join(root, "dist/src/cli/main.js");

const running = new Set<ChildProcess>();

/** Ends what a test that took too long has left behind. */
export function endRuns(): void {
  for (const child of running) child.kill("SIGTERM");
}

/** `command` is the launcher with its options; Node's arguments follow. */
async function start(
  command: readonly string[],
  args: (folder: string) => readonly string[],
  env: Readonly<Record<string, string>> = {},
): Promise<Run> {
  const folder = await mkdtemp(join(tmpdir(), "alignprop-ranks-"));
  const [program = "", ...options] = [...command, process.execPath, ...args(folder)];
  const child = spawn(program, options, {
    env: { ...process.env, ...OPEN_MPI_SETTINGS, ALIGNPROP_MPI_LIMIT: String(LIMIT), ...env },
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
      const found = async (rank: number) => JSON.parse(await readFile(join(folder, `rank-${rank}.json`), "utf8"));
      resolve({ code, ...said, errors, files, found });
    });
  });
  return { child, folder, said, ended };
}

/** A scenario of `rank.js`. */
export function launch(
  command: readonly string[],
  scenario: string,
  env?: Readonly<Record<string, string>>,
): Promise<Run> {
  return start(command, (folder) => [rankScript, scenario, folder], env);
}

/** `ranks` processes on this machine. */
export function runHere(
  implementation: Implementation,
  ranks: number,
  scenario: string,
  env?: Readonly<Record<string, string>>,
): Promise<Run> {
  return launch([implementation.mpirun ?? "", ...implementation.ranks(ranks)], scenario, env);
}

/** `alignprop train` on `ranks` processes on this machine, with a limit that slow steps do not come near. */
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

/** Waits until the run has said this. */
export async function heard({ said, child }: Run, pattern: RegExp): Promise<void> {
  while (!pattern.test(said.stderr)) {
    if (child.exitCode !== null) throw new Error(`ended early: ${said.stderr}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** The process id of a rank, once it has written it down. */
export async function pidOf({ folder, child }: Run, rank: number): Promise<number> {
  const file = join(folder, `rank-${rank}.json`);
  for (;;) {
    const text = existsSync(file) ? await readFile(file, "utf8") : "";
    if (text.endsWith("}")) return (JSON.parse(text) as { pid: number }).pid;
    if (child.exitCode !== null) throw new Error("the run ended before it began");
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
