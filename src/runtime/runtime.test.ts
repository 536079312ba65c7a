import { execFile } from "node:child_process";
import { pathToFileURL } from "node:url";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { inputError } from "../../test/errors.js";
import type { Graph } from "../graph/graph.js";
import { packageFolder } from "../io/package.js";
import { add, gather, input, matmul, mul } from "../ops/index.js";
import { float32, fromNumbers } from "../tensor/host.js";
import { Runtime, type SavedOutputs } from "./runtime.js";

let runtime: Runtime;
beforeAll(async () => {
  runtime = await Runtime.start({ threads: 1 });
});
afterAll(() => runtime.close());

function doubling(name = "doubling"): Graph {
  const x = input([2]);
  return { name, inputs: { x }, outputs: { y: mul(x, 2) } };
}
const pair = (a: number, b: number) => fromNumbers([a, b], [2]);

/** About 10 GFLOP in a chain of matrix products. */
function long(): Graph {
  const x = input([512, 512]);
  let y = x;
  for (let i = 0; i < 40; i++) y = matmul(y, x);
  return { name: "long", inputs: { x }, outputs: { y } };
}
const square = float32(new Float32Array(512 * 512), [512, 512]);

test("the main thread is free while a program runs", async () => {
  const program = await runtime.compile(long());
  let running = true;
  let ticks = 0;
  const tick = () => {
    if (!running) return;
    ticks++;
    setImmediate(tick);
  };
  const result = program.run({ x: square }).finally(() => {
    running = false;
  });
  tick();
  await result;
  // If the products blocked the main thread, it would tick once or twice.
  expect(ticks).toBeGreaterThan(100);
  await program.release();
});

test("concurrent calls each get their own result", async () => {
  const program = await runtime.compile(doubling());
  const results = await Promise.all([1, 2, 3].map((value) => program.run({ x: pair(value, -value) })));
  expect(results.map(({ y }) => [...(y?.data ?? [])])).toEqual([
    [2, -2],
    [4, -4],
    [6, -6],
  ]);
  await program.release();
});

test("a run leaves its feeds intact", async () => {
  const program = await runtime.compile(doubling());
  const x = pair(1, 2);
  await program.run({ x });
  await program.run({ x });
  expect([...x.data]).toEqual([1, 2]);
  await program.release();
});

describe("a failure while running", () => {
  test("names the graph, the op and its shape, and leaves the program usable", async () => {
    const [table, indices] = [input([4, 3]), input([2], "int64")];
    const program = await runtime.compile({
      name: "lookup",
      inputs: { table, indices },
      outputs: { y: add(gather(table, indices), 1) },
    });
    const rows = fromNumbers(new Array(12).fill(1), [4, 3]);
    const run = (...at: number[]) => program.run({ table: rows, indices: fromNumbers(at, [2], "int64") });
    await expect(run(0, 9)).rejects.toThrow(/^lookup: .*gather → float32\[2, 3\]/s);
    expect((await run(0, 3)).y?.data).toEqual(new Float32Array(6).fill(2));
    await program.release();
  });
});

describe("feeds that do not fit", () => {
  test.each([
    ["are missing", {}, "doubling: input x expects float32[2], got nothing"],
    ["have another shape", { x: fromNumbers([1, 2, 3], [3]) }, "doubling: input x expects float32[2], got float32[3]"],
    [
      "have another type",
      { x: fromNumbers([1, 2], [2], "int64") },
      "doubling: input x expects float32[2], got int64[2]",
    ],
    ["have an unknown name", { x: pair(1, 2), z: pair(1, 2) }, "doubling: no input z; the inputs are x"],
  ])("are refused when they %s", async (_, feeds, message) => {
    const program = await runtime.compile(doubling());
    await expect(program.run(feeds)).rejects.toThrow(new TypeError(message));
    await program.release();
  });
});

describe("the end", () => {
  test("of a program: it runs no more, others do, and releasing it again does nothing", async () => {
    const [first, second] = [await runtime.compile(doubling("first")), await runtime.compile(doubling("second"))];
    await first.release();
    await first.release();
    await expect(first.run({ x: pair(1, 2) })).rejects.toThrow(/^first: .*was released/);
    expect((await second.run({ x: pair(1, 2) })).y?.data).toEqual(new Float32Array([2, 4]));
    await second.release();
  });

  test("of a runtime: nothing compiles or runs, releasing does nothing, and pending runs fail", async () => {
    const closing = await Runtime.start({ threads: 1 });
    const program = await closing.compile(doubling());
    const busy = await closing.compile(long());
    const underWay = expect(busy.run({ x: square })).rejects.toThrow("long: runtime: the worker thread ended");
    await closing.close();
    await underWay;
    await expect(program.run({ x: pair(1, 2) })).rejects.toThrow("doubling: runtime: already closed");
    await expect(closing.compile(doubling())).rejects.toThrow(/^runtime: already closed$/);
    await program.release();
    await closing.close();
  });
});

describe("a device that this machine does not have", () => {
  test("is an InputError with the option, the reason and the remedy", async ({ skip }) => {
    const start = Runtime.start({ device: "cuda" }).then(async (started) => {
      await started.close();
      return "has CUDA";
    });
    const outcome = await start.catch((error: unknown) => error);
    skip(outcome === "has CUDA", "this machine can run CUDA");
    expect(outcome).toEqual(
      inputError("device-unavailable", {
        option: "--device",
        found: "cuda",
        reason: expect.stringMatching(/^[^\n]+$/),
      }),
    );
    expect((outcome as Error).message).toContain("--device cpu");
  });
});

test("a process ends by itself with a runtime open and idle, and not before its work is done", async () => {
  const url = (file: string) => pathToFileURL(`${packageFolder}/dist/src/${file}`).href;
  const script = `
    import { Runtime } from ${JSON.stringify(url("runtime/runtime.js"))};
    import { input, mul } from ${JSON.stringify(url("ops/index.js"))};
    const runtime = await Runtime.start({ threads: 1 });
    const x = input([1]);
    const program = await runtime.compile({ name: "left open", inputs: { x }, outputs: { y: mul(x, 2) } });
    const { y } = await program.run({ x: { dtype: "float32", shape: [1], data: Float32Array.of(21) } });
    console.log(y.data[0]);
  `;
  const { stdout, stderr } = await promisify(execFile)(process.execPath, ["--input-type=module", "-e", script], {
    timeout: 30_000,
  });
  expect([stdout, stderr]).toEqual(["42\n", ""]);
});

describe("outputs that stay in the worker", () => {
  /** y = 3 x and square = x², and a program that takes `square`. */
  async function maker() {
    const [x, square, shift] = [input([2]), input([2]), input([2])];
    return {
      making: await runtime.compile({ name: "making", inputs: { x }, outputs: { y: mul(x, 3), square: mul(x, x) } }),
      using: await runtime.compile({ name: "using", inputs: { square, shift }, outputs: { z: add(square, shift) } }),
    };
  }

  test("are inputs of another program under their names", async () => {
    const { making, using } = await maker();
    const first = await making.runSaving({ x: pair(3, 5) }, ["square"]);
    const second = await making.runSaving({ x: pair(1, 2) }, ["square"]);
    expect(Object.keys(first.outputs)).toEqual(["y"]);
    expect([...(first.outputs.y?.data ?? [])]).toEqual([9, 15]);
    expect(first.kept.bytes).toBe(8);
    const shifted = async (kept: SavedOutputs) => [...((await using.run({ shift: pair(1, 0) }, kept)).z?.data ?? [])];
    expect(await shifted(first.kept)).toEqual([10, 25]);
    expect(await shifted(second.kept)).toEqual([2, 4]);
    // Each run keeps its own outputs, whatever was released before.
    await first.kept.release();
    const third = await making.runSaving({ x: pair(7, 1) }, ["square"]);
    expect(await shifted(second.kept)).toEqual([2, 4]);
    expect(await shifted(third.kept)).toEqual([50, 1]);
  });

  test("are refused after their release, by another runtime, and if they do not fit", async () => {
    const { making, using } = await maker();
    const { kept } = await making.runSaving({ x: pair(3, 5) }, ["square"]);
    await expect(using.run({}, kept)).rejects.toThrow("using: input shift expects float32[2], got nothing");
    await expect(making.run({ x: pair(1, 2) }, kept)).rejects.toThrow("making: no input square; the inputs are x");
    await expect(making.runSaving({ x: pair(1, 2) }, ["cube"])).rejects.toThrow("making: no output cube to keep");
    const other = await Runtime.start({ threads: 1 });
    const shift = pair(0, 0);
    const [square, s] = [input([2]), input([2])];
    const elsewhere = await other.compile({
      name: "other",
      inputs: { square, shift: s },
      outputs: { z: add(square, s) },
    });
    await expect(elsewhere.run({ shift }, kept)).rejects.toThrow(/released, or they belong to another runtime/);
    const theirs = await (await other.compile(doubling())).runSaving({ x: pair(1, 2) }, ["y"]);
    await other.close();
    await theirs.kept.release(); // does nothing and does not throw
    await kept.release();
    await kept.release();
    await expect(using.run({ shift }, kept)).rejects.toThrow(/released, or they belong to another runtime/);
  });
});
