/** The machine and the programs that a measurement was made with. */
import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { cpus, release, totalmem } from "node:os";
import path from "node:path";
import { promisify } from "node:util";

const run = promisify(execFile);

export interface Machine {
  readonly cpu: string;
  readonly cores: number;
  /** Vector and matrix instructions that the libraries of both sides choose their kernels by. */
  readonly instructions: readonly string[];
  readonly memory_bytes: number;
  readonly system: string;
  /** Versions of node and of packages. */
  readonly versions: Readonly<Record<string, string>>;
}

const INSTRUCTIONS = ["avx2", "fma", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16"];
const PEER_PACKAGES = ["torch", "diffusers", "transformers", "peft", "safetensors"];

/** `python` is the interpreter with the peer's packages. */
export async function describeMachine(python: string | undefined): Promise<Machine> {
  const flags = existsSync("/proc/cpuinfo") ? /^flags\s*: (.*)$/m.exec(readFileSync("/proc/cpuinfo", "utf8"))?.[1] : "";
  const available = new Set(flags?.split(" "));
  const require = createRequire(import.meta.url);
  return {
    cpu: cpus()[0]?.model ?? "unknown",
    cores: cpus().length,
    instructions: INSTRUCTIONS.filter((name) => available.has(name)),
    memory_bytes: totalmem(),
    system: `${process.platform} ${release()}`,
    versions: {
      node: process.versions.node,
      "onnxruntime-node": (require("onnxruntime-node/package.json") as { version: string }).version,
      ...(python && (await pythonVersions(python))),
    },
  };
}

async function pythonVersions(python: string): Promise<Record<string, string>> {
  const program =
    "import json, platform, importlib.metadata as m; " +
    `print(json.dumps({"python": platform.python_version(), **{n: m.version(n) for n in ${JSON.stringify(PEER_PACKAGES)}}}))`;
  const { stdout } = await run(python, ["-c", program]);
  return JSON.parse(stdout) as Record<string, string>;
}

/** The commit, and whether files differ from it. */
export async function currentCommit(root: string): Promise<string> {
  const git = async (...args: string[]) => (await run("git", args, { cwd: root })).stdout.trim();
  try {
    const changed = await git("status", "--porcelain", "--", "src", "bench", "parity", ":!bench/results");
    return `${await git("rev-parse", "--short=10", "HEAD")}${changed ? " with changes" : ""}`;
  } catch {
    return "not a git repository";
  }
}

/** A hash of all files, without tests. Measurements of the same code need not be repeated. */
export function hashOfFiles(root: string, files: readonly string[]): string {
  const hash = createHash("sha256");
  for (const file of files
    .flatMap((file) => filesUnder(path.join(root, file)))
    .filter((file) => !file.endsWith(".test.ts"))
    .sort()) {
    hash.update(path.relative(root, file)).update("\0").update(readFileSync(file)).update("\0");
  }
  return hash.digest("hex").slice(0, 16);
}

function filesUnder(file: string): string[] {
  if (!existsSync(file)) throw new Error(`${file} does not exist`);
  try {
    return readdirSync(file).flatMap((name) => filesUnder(path.join(file, name)));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOTDIR") return [file];
    throw error;
  }
}
