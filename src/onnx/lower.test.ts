import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { distance, OP_TOLERANCE } from "../../test/tolerance.js";
import { type Graph, topologicalOrder } from "../graph/graph.js";
import { interpret } from "../graph/interpret.js";
import { add, cast, constant, conv2d, convTranspose2d, input, linear, parameter } from "../ops/index.js";
import { Runtime } from "../runtime/runtime.js";
import { fromNumbers, type HostTensor, toNumbers } from "../tensor/host.js";
import { Rng } from "../tensor/rng.js";
import { type Shape, sizeOf } from "../tensor/shape.js";
import { fromTensors } from "../weights/source.js";
import { emit } from "./emit.js";
import { lower, type WeightHolding } from "./lower.js";

let runtime: Runtime;
beforeAll(async () => {
  runtime = await Runtime.start({ threads: 1 });
});
afterAll(() => runtime.close());

const HOLDINGS: readonly WeightHolding[] = ["packed", "mapped"];
const rng = new Rng(5);
const random = (shape: Shape): HostTensor =>
  fromNumbers(
    Float32Array.from({ length: sizeOf(shape) }, () => rng.normal()),
    shape,
  );
const opsOf = ({ outputs }: Graph) => topologicalOrder(Object.values(outputs)).map(({ op }) => op.name);

describe("a transposed convolution", () => {
  /** [output channels, input channels / groups, kernel, kernel] of conv2d, and [height, width] of its input. */
  const cases = {
    "few pixels": { weight: [16, 3, 3, 3], size: [4, 5], padding: 1 },
    "many pixels": { weight: [4, 3, 3, 3], size: [9, 8], padding: 1 },
    "many pixels, groups and uneven padding": {
      weight: [4, 3, 3, 2],
      size: [9, 8],
      padding: [2, 1, 0, 0],
      groups: 2,
    },
    "many pixels, dilated": { weight: [4, 3, 3, 3], size: [9, 10], padding: 2, dilation: 2 },
    "many pixels, one pixel kernel": { weight: [4, 3, 1, 1], size: [9, 10] },
    "a stride": { weight: [4, 3, 3, 3], size: [9, 10], padding: 1, stride: 2 },
    "padding as wide as the kernel": { weight: [2, 3, 2, 2], size: [7, 7], padding: 2 },
  } as const;
  for (const [name, { weight: shape, size, ...options }] of Object.entries(cases)) {
    test(`with ${name} is the same in float64, packed and mapped`, async () => {
      const groups = "groups" in options ? options.groups : 1;
      const [o, perGroup] = shape;
      const forward = conv2d(
        input([2, perGroup * groups, ...size]),
        parameter("w", shape, "float32"),
        undefined,
        options as object,
      );
      const x = input(forward.shape);
      const y = convTranspose2d(x, parameter("w", shape, "float32"), size, options as object);
      const graph: Graph = { name, inputs: { x }, outputs: { y } };
      const [feeds, w] = [{ x: random(x.shape) }, random(shape)];
      const expected = interpret(graph, feeds, () => w).y?.data as Float64Array;
      expect(o).toBeGreaterThan(0);
      for (const holding of HOLDINGS) {
        runtime.packUpTo = holding === "packed" ? Number.POSITIVE_INFINITY : 0;
        const program = await runtime.compile(graph, fromTensors(new Map([["w", w]])));
        const { y: found } = await program.run(feeds);
        expect(distance(toNumbers(found as HostTensor), expected)).toBeLessThan(OP_TOLERANCE);
        await program.release();
      }
    });
  }

  test("becomes a convolution if its weight is turned once, or if there are many pixels for each channel", () => {
    const graphOf = (o: number, side: number): Graph => {
      const x = input([1, o, side, side]);
      const y = convTranspose2d(x, parameter("w", [o, 2, 3, 3], "float32"), [side, side], { padding: 1 });
      return { name: "g", inputs: { x }, outputs: { y } };
    };
    const hasConv = (graph: Graph, holding: WeightHolding) => opsOf(lower(graph, holding)).includes("conv2d");
    expect(HOLDINGS.map((holding) => hasConv(graphOf(16, 8), holding))).toEqual([true, false]);
    expect(HOLDINGS.map((holding) => hasConv(graphOf(15, 8), holding))).toEqual([true, true]);
  });
});

describe("a float16 weight that two nodes read", () => {
  const x = input([2, 3]);
  const weight = cast(parameter("w", [3, 3], "float16"), "float32");
  const graph = { name: "g", inputs: { x }, outputs: { y: linear(linear(x, weight), weight) } };

  test("is cast once if it is packed, and before each use if it is mapped", () => {
    const casts = (holding: WeightHolding) => opsOf(lower(graph, holding)).filter((op) => op === "cast").length;
    expect(HOLDINGS.map(casts)).toEqual([1, 2]);
  });

  test("gives the same numbers either way", async () => {
    const weights = fromTensors(new Map([["w", fromNumbers([1, 2, 3, 4, 5, 6, 7, 8, 9], [3, 3], "float16")]]));
    for (const holding of HOLDINGS) {
      runtime.packUpTo = holding === "packed" ? Number.POSITIVE_INFINITY : 0;
      const program = await runtime.compile(graph, weights);
      const { y } = await program.run({ x: fromNumbers([1, 0, 0, 0, 1, 0], [2, 3]) });
      // Rows of (W W)ᵀ.
      expect([...toNumbers(y as HostTensor)]).toEqual([30, 66, 102, 36, 81, 126]);
      await program.release();
    }
  });
});

test("of mapped programs one is loaded at a time, and saved outputs outlive the program that made them", async () => {
  runtime.packUpTo = 0;
  const weights = fromTensors(new Map([["w", fromNumbers([2, 3], [2])]]));
  const [a, b, shift] = [input([2]), input([2]), input([2])];
  const w = parameter("w", [2], "float32");
  const first = await runtime.compile({ name: "first", inputs: { a }, outputs: { b: add(a, w) } }, weights);
  const second = await runtime.compile(
    { name: "second", inputs: { b, shift }, outputs: { y: add(b, shift) } },
    weights,
  );
  const feeds = { a: fromNumbers([1, 1], [2]) };
  const { kept } = await first.runSaving(feeds, ["b"]);
  const other = await runtime.compile({ name: "other", inputs: { b }, outputs: { y: add(b, w) } }, weights);
  const run = async () => [...toNumbers((await other.run({}, kept)).y as HostTensor)];
  expect(await run()).toEqual([5, 7]);
  expect([...toNumbers((await first.run(feeds)).b as HostTensor)]).toEqual([3, 4]);
  expect(await run()).toEqual([5, 7]);
  expect([...toNumbers((await second.run({ shift: fromNumbers([0, 1], [2]) }, kept)).y as HostTensor)]).toEqual([3, 5]);
  await other.release();
  await expect(other.run({}, kept)).rejects.toThrow(/was released/);
});

test("nodes that prepare a weight are written first, in the order in which they are used", () => {
  const x = input([1, 2]);
  const read = (name: string) => cast(parameter(name, [2, 2], "float16"), "float32");
  const graph = {
    name: "g",
    inputs: { x },
    outputs: { y: linear(linear(add(x, constant([1], [1])), read("a")), read("b")) },
  };
  const weights = fromTensors(new Map(["a", "b"].map((name) => [name, fromNumbers([1, 2, 3, 4], [2, 2], "float16")])));
  const { bytes } = emit(graph, weights, "mapped");
  const text = Buffer.from(bytes).toString("latin1");
  const places = ["cast →", "add →", "gemm →"].flatMap((label) => [text.indexOf(label), text.lastIndexOf(label)]);
  expect(places).toEqual(places.toSorted((p, q) => p - q));
});
