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

const rankScript = join(import.meta.dirname, "rank.js");

export async function launch(
  command: readonly string[],
  scenario: string,
  env: Readonly<Record<string, string>> = {},
): Promise<Run> {
  const folder = await mkdtemp(join(tmpdir(), "alignprop-ranks-"));
  const [program = "", ...args] = [...command, process.execPath, rankScript, scenario, folder];
  const child = spawn(program, args, {
    env: { ...process.env, ...OPEN_MPI_SETTINGS, ALIGNPROP_MPI_LIMIT: String(LIMIT), ...env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  let [stdout, stderr] = ["", ""];
  child.stdout.on("data", (text) => {
    stdout += text;
  });
  child.stderr.on("data", (text) => {
    stderr += text;
  });
  const ended = new Promise<Outcome>((resolve, reject) => {
    child.on("error", reject);
    child.on("close", async (code) => {
      const errors = stderr.split("\n").filter((line) => line.startsWith("error: "));
      const files = (await readdir(folder)).sort();
      const found = async (rank: number) => JSON.parse(await readFile(join(folder, `rank-${rank}.json`), "utf8"));
      resolve({ code, stdout, stderr, errors, files, found });
    });
  });
  return { child, folder, ended };
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
