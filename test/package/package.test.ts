/** The package as its users get it: packed from a fresh clone, installed without install scripts, run, imported and type-checked. */
import { execFile } from "node:child_process";
import { cp, mkdir, mkdtemp, readFile, rm, stat, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

const root = join(import.meta.dirname, "../..");
const scratch = await mkdtemp(join(tmpdir(), "alignprop-package-"));
const clone = join(scratch, "clone");
const project = join(scratch, "project");
afterAll(() => rm(scratch, { recursive: true, force: true }));

/** Runs a program and returns what it prints. A failure shows the program's own messages. */
async function run(cwd: string, program: string, ...args: string[]): Promise<{ stdout: string; stderr: string }> {
  // Settings that npm hands to the scripts it runs would otherwise reach the npm that is tested.
  const env = Object.fromEntries(
    Object.entries(process.env).filter(([name]) => !/^npm_(config|package|lifecycle)_/i.test(name)),
  );
  return promisify(execFile)(program, args, { cwd, env: { ...env, NO_UPDATE_NOTIFIER: "1" } });
}

interface Packed {
  readonly filename: string;
  readonly size: number;
  readonly unpackedSize: number;
  readonly files: readonly { readonly path: string }[];
}

let packed: Packed;

beforeAll(async () => {
  const tracked = (await run(root, "git", "ls-files", "--cached", "--others", "--exclude-standard", "-z")).stdout;
  for (const file of tracked.split("\0").filter(Boolean)) {
    await mkdir(dirname(join(clone, file)), { recursive: true });
    // A file that was deleted and not yet committed is listed as well.
    await cp(join(root, file), join(clone, file)).catch(() => undefined);
  }
  await symlink(join(root, "node_modules"), join(clone, "node_modules"), "dir");
  await mkdir(project);
  await writeFile(join(project, "package.json"), JSON.stringify({ private: true, type: "module" }));

  // npm 12 names the packages, older versions list them.
  const { stdout } = await run(clone, "npm", "pack", "--json", "--pack-destination", scratch);
  [packed] = Object.values(JSON.parse(stdout.slice(stdout.search(/^[[{]/m)))) as [Packed];
  const tarball = join(scratch, packed.filename);
  console.log(
    `${packed.filename}: ${packed.size} bytes, ${packed.unpackedSize} unpacked, ${packed.files.length} files`,
  );
  await run(project, "npm", "install", tarball, "--ignore-scripts", "--prefer-offline", "--no-audit", "--no-fund");
});

describe("the tarball", () => {
  test("holds the compiled program, the embedded model, rewards and recipes", () => {
    const paths = packed.files.map(({ path }) => path);
    expect(paths).toEqual(
      expect.arrayContaining([
        ...["LICENSE", "NOTICE", "README.md", "package.json"],
        ...["dist/src/cli/main.js", "dist/src/index.js", "dist/src/index.d.ts"],
        ...["dist/src/runtime/worker.js", "dist/src/cluster/mpi/worker.js"],
        ...["models/emoji-64/unet/diffusion_pytorch_model.safetensors", "models/rewards/clip/model.safetensors"],
        "recipes/default.yaml",
      ]),
    );
  });

  test("holds no tests, sources, source maps or tools", () => {
    const other = packed.files
      .map(({ path }) => path)
      .filter(
        (path) => !/^(dist\/src\/.*\.(js|d\.ts)|models\/.*|recipes\/.*\.yaml|[A-Za-z]+(\.md|\.json)?)$/.test(path),
      );
    expect(other).toEqual([]);
    expect(packed.files.filter(({ path }) => path.includes(".test."))).toEqual([]);
  });

  test("has no script for which npm would ask its users", async () => {
    // npm counts the `prepare` of a tarball among them. `postprepare` does the same in a clone.
    const installed = JSON.parse(await readFile(join(project, "node_modules/alignprop/package.json"), "utf8"));
    const names = ["preinstall", "install", "postinstall", "prepare"];
    expect(names.filter((name) => name in installed.scripts)).toEqual([]);
  });

  test("is smaller than 13 MB", () => {
    expect(packed.size).toBeLessThan(13e6);
  });
});

describe("an empty project that installed it without install scripts", () => {
  test("runs the program", async () => {
    const { version } = JSON.parse(await readFile(join(root, "package.json"), "utf8"));
    const { stdout, stderr } = await run(project, "npx", "--no-install", "alignprop", "--version");
    expect(stdout.trim()).toBe(version);
    expect(stderr).toBe("");
  });

  test("generates an image with the embedded model", async () => {
    const out = join(project, "fox.png");
    const sampling = ["--steps", "2"];
    await run(project, "npx", "--no-install", "alignprop", "generate", "--prompt", "fox", "--out", out, ...sampling);
    expect((await stat(out)).size).toBeGreaterThan(1000);
  });

  test("imports the library", async () => {
    const script = `
      import { loadSettings } from "alignprop";
      console.log((await loadSettings({ recipe: "default" })).model);
    `;
    const { stdout } = await run(project, process.execPath, "--input-type=module", "--eval", script);
    expect(stdout).toContain("emoji-64");
  });

  test("type-checks against the library's declarations", async () => {
    await writeFile(
      join(project, "use.ts"),
      `import { defineReward, loadSettings, train, type TrainEvent } from "alignprop";
      export const steps: number[] = [];
      const observe = (event: TrainEvent): void => {
        if (event.kind === "stepped") steps.push(event.metrics.step);
      };
      export const run = async () => train(await loadSettings({ recipe: "default" }), observe);
      export const reward = defineReward;
      `,
    );
    const options = ["--noEmit", "--strict", "--module", "nodenext", "--target", "es2023", "--types", "node"];
    // The declarations name Node's own types, which a project has from @types/node.
    await mkdir(join(project, "node_modules/@types"), { recursive: true });
    for (const name of ["@types/node", "undici-types"])
      await symlink(join(root, "node_modules", name), join(project, "node_modules", name), "dir").catch(
        () => undefined,
      );
    await run(project, process.execPath, join(root, "node_modules/typescript/bin/tsc"), ...options, "use.ts");
  });
});

test("npm ci runs no install script of onnxruntime-node", async () => {
  // Its script downloads CUDA's libraries from NuGet. Recent versions of npm read allowScripts, older ones this flag of the lock.
  const manifest = JSON.parse(await readFile(join(root, "package.json"), "utf8"));
  const lock = JSON.parse(await readFile(join(root, "package-lock.json"), "utf8"));
  const { hasInstallScript } = lock.packages["node_modules/onnxruntime-node"];
  expect({ allowed: manifest.allowScripts["onnxruntime-node"], hasInstallScript }).toEqual({ allowed: false });
});
