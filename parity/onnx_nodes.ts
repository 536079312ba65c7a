/**
 * Runs the node tests of the ONNX project, which onnx_nodes.py wrote into a folder, through the importer: values in float64
 * and in ONNX Runtime, and gradients against central differences.
 *
 *     node dist/parity/onnx_nodes.js FOLDER [NAME]      prints the table of parity/onnx_nodes.md, or the tests with NAME in them
 */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { gradients } from "../src/autodiff/index.js";
import { InputError } from "../src/errors/index.js";
import { interpret } from "../src/graph/interpret.js";
import type { F64Array, Value } from "../src/graph/value.js";
import { openOnnx } from "../src/onnx/import/file.js";
import { OnnxImport } from "../src/onnx/import/import.js";
import { constant, input } from "../src/ops/index.js";
import { Runtime } from "../src/runtime/runtime.js";
import { isFloating } from "../src/tensor/dtype.js";
import { fromNumbers, type HostTensor, toNumbers } from "../src/tensor/host.js";
import { Rng } from "../src/tensor/rng.js";
import { sizeOf } from "../src/tensor/shape.js";
import { readTensor } from "../src/weights/source.js";

interface Stored {
  readonly type: string;
  readonly shape?: readonly number[];
  readonly offset: number | null;
}

interface NodeTest {
  readonly name: string;
  readonly rtol: number;
  readonly atol: number;
  readonly inputs: Readonly<Record<string, Stored>>;
  readonly outputs: Readonly<Record<string, Stored>>;
}

export type Outcome =
  | { readonly kind: "right" }
  | { readonly kind: "restricted"; readonly reason: string }
  | { readonly kind: "refused"; readonly reason: string }
  | { readonly kind: "wrong"; readonly reason: string };

type Arrays = Readonly<Record<string, F64Array>>;

/** The ONNX types whose values are strings, sequences or complex numbers. */
const NOT_ARRAYS = "strings, sequences, optional values and complex numbers are not supported";

/** Outcomes that differ from the test's on purpose: the name of the test, the difference, and the reason. */
const EXPLAINED: readonly (readonly [RegExp, RegExp, string])[] = [
  [
    /^test_resize_downsample_scales_(linear|cubic)_align_corners$/,
    /^Y\[1\] is/,
    "with align_corners and a fractional scale, ONNX Runtime and PyTorch agree with us, and not with the reference",
  ],
  [
    /quantizelinear|qlinear/,
    /^the gradient of \w+ at \w+ is -?[\d.]+, expected 0$/,
    "quantization rounds, so its derivative is 0; the gradient passes straight through, as in quantization-aware training",
  ],
  [
    /^test_dynamicquantizelinear(_expanded)?$/,
    /^y\[3\] is 25, expected 26$/,
    "a tie of the rounding in float32 is not one in float64",
  ],
  [
    /^test_attention_.*_expanded$/,
    /^the gradient of Y at Q is NaN$/,
    "softmax of a row of -∞ is NaN, and so is its gradient behind a Where, as in PyTorch. The operator Attention has no such row",
  ],
];

/** Which inputs are constants of the graph, as in an exported model. The first that can be imported counts. */
const WAYS: readonly { readonly label: string; readonly isConstant: (type: string, index: number) => boolean }[] = [
  { label: "", isConstant: () => false },
  { label: "integer inputs must be constant", isConstant: (type) => !type.startsWith("float") },
  { label: "inputs other than the first must be constant", isConstant: (_, index) => index > 0 },
  { label: "all inputs must be constant", isConstant: () => true },
];

/** Runs one test. `read` returns the elements of a stored array. */
export async function runNodeTest(
  runtime: Runtime,
  path: string,
  test: NodeTest,
  read: (stored: Stored) => F64Array,
): Promise<Outcome> {
  const stored = [...Object.entries(test.inputs), ...Object.entries(test.outputs)];
  if (stored.some(([, { offset }]) => offset === null)) return { kind: "refused", reason: NOT_ARRAYS };
  const given = Object.fromEntries(Object.entries(test.inputs).map(([name, one]) => [name, read(one)]));
  const expected = Object.fromEntries(Object.entries(test.outputs).map(([name, one]) => [name, read(one)]));
  let reason = "";
  for (const { label, isConstant } of WAYS) {
    try {
      const file = await openOnnx(path);
      const values = Object.fromEntries(
        file.inputs.map(({ name, dtype }, i) => {
          const { shape, data } = given[name] as F64Array;
          const type = isFloating(dtype) ? "float32" : dtype;
          const fixed = isConstant(test.inputs[name]?.type ?? "", i);
          return [name, fixed ? constant(data, shape, type) : input(shape, type)] as const;
        }),
      );
      const model = new OnnxImport(file, values);
      const outputs = Object.fromEntries(file.outputs.map((name) => [name, model.output(name)]));
      const inputs = Object.fromEntries(Object.entries(values).filter(([, { node }]) => node.op.name === "input"));
      const weights = new Map<string, HostTensor>();
      for (const name of file.weights.names()) {
        const tensor = file.weights.get(name);
        if (tensor) weights.set(name, await readTensor(tensor));
      }
      const run = (feeds: Arrays) =>
        interpret({ name: test.name, inputs, outputs }, feeds, (name) => weights.get(name));
      const problem =
        difference(run(given), expected, test) ??
        (await runtimeDifference(runtime, { test, inputs, outputs, given, expected })) ??
        gradientDifference({ inputs, outputs, given, run });
      if (problem?.startsWith("!")) return { kind: "restricted", reason: problem.slice(1) };
      const explained = problem && EXPLAINED.find(([name, found]) => name.test(test.name) && found.test(problem));
      if (explained) return { kind: "restricted", reason: explained[2] };
      if (problem) return { kind: "wrong", reason: problem };
      return label ? { kind: "restricted", reason: label } : { kind: "right" };
    } catch (error) {
      if (!(error instanceof InputError)) return { kind: "wrong", reason: String(error) };
      // The reason of the first way says what the model needs.
      reason ||= error.message.replace(`${path}: `, "").replace(/^node "[^"]*" /, "");
    }
  }
  return { kind: "refused", reason };
}

/** Rounding of an element, as a share of its size. Everything is computed in float32, and not rounded to these types. */
const HALF: Readonly<Record<string, number>> = { float16: 2 ** -10, bfloat16: 2 ** -7 };

function difference(actual: Arrays, expected: Arrays, test: NodeTest, slack = 1): string | undefined {
  const half = Math.max(0, ...Object.values({ ...test.inputs, ...test.outputs }).map(({ type }) => HALF[type] ?? 0));
  const [rtol, atol] = [Math.max(test.rtol, half), Math.max(test.atol, half, 1e-6)];
  for (const [name, { shape, data }] of Object.entries(expected)) {
    const found = actual[name];
    if (!found || found.shape.join() !== shape.join())
      return `${name} has the shape ${found?.shape}, expected ${shape}`;
    for (const [i, value] of data.entries()) {
      const one = found.data[i] as number;
      const isSame = Object.is(one, value) || one === value || (Number.isNaN(one) && Number.isNaN(value));
      if (!isSame && !(Math.abs(one - value) <= slack * (atol + rtol * Math.abs(value)))) {
        return `${name}[${i}] is ${one}, expected ${value}`;
      }
    }
  }
  return undefined;
}

interface Built {
  readonly inputs: Readonly<Record<string, Value>>;
  readonly outputs: Readonly<Record<string, Value>>;
  readonly given: Arrays;
}

async function runtimeDifference(
  runtime: Runtime,
  { test, inputs, outputs, given, expected }: Built & { readonly test: NodeTest; readonly expected: Arrays },
): Promise<string | undefined> {
  // A graph of ours has an input; everything else was folded.
  if (Object.keys(inputs).length === 0) return undefined;
  const feeds = Object.fromEntries(
    Object.entries(inputs).map(([name, { dtype, shape }]) => [
      name,
      fromNumbers((given[name] as F64Array).data, shape, dtype),
    ]),
  );
  try {
    const program = await runtime.compile({ name: test.name, inputs, outputs });
    const results = await program.run(feeds);
    await program.release();
    const arrays = Object.fromEntries(
      Object.entries(results).map(([name, tensor]) => [
        name,
        { shape: tensor.shape, data: Float64Array.from(toNumbers(tensor)) },
      ]),
    );
    const problem = difference(arrays, expected, test, 2);
    return problem && `in ONNX Runtime, ${problem}`;
  } catch (error) {
    return `in ONNX Runtime: ${String(error).slice(0, 200)}`;
  }
}

const STEP = 1e-5;

/** Compares the gradient of a random combination of all floating point outputs along random directions. */
function gradientDifference({ inputs, outputs, given, run }: Built & { readonly run: (feeds: Arrays) => Arrays }) {
  const wrt = Object.entries(inputs).filter(([, { dtype }]) => isFloating(dtype));
  const floats = Object.entries(outputs).filter(([, { dtype, shape }]) => isFloating(dtype) && sizeOf(shape) > 0);
  if (wrt.length === 0 || floats.length === 0) return undefined;
  const rng = new Rng(11);
  let note: string | undefined;
  for (const [name, y] of floats) {
    const upstream = Float64Array.from({ length: sizeOf(y.shape) }, () => rng.normal());
    let found: readonly (Value | undefined)[];
    try {
      found = gradients(
        [{ value: y, gradient: constant(upstream, y.shape) }],
        wrt.map(([, value]) => value),
      );
    } catch (error) {
      note = `!the output ${name} has no gradient (${String(error).slice(0, 120)})`;
      continue;
    }
    const graph = Object.fromEntries(found.flatMap((value, i) => (value ? [[`d${i}`, value] as const] : [])));
    const computed = interpret({ name: "gradient", inputs, outputs: graph }, given);
    for (const [i, [key, value]] of wrt.entries()) {
      if (sizeOf(value.shape) === 0) continue;
      for (let trial = 0; trial < 2; trial++) {
        const direction = Float64Array.from({ length: sizeOf(value.shape) }, () => rng.normal());
        const at = (step: number) => {
          const base = given[key] as F64Array;
          const moved = { shape: base.shape, data: base.data.map((x, at) => x + step * (direction[at] as number)) };
          return (run({ ...given, [key]: moved })[name] as F64Array).data;
        };
        const [low, middle, high] = [at(-STEP), at(0), at(STEP)];
        const slope = (a: Float64Array, b: Float64Array, length: number) =>
          a.reduce((sum, x, at) => sum + (upstream[at] as number) * (((b[at] as number) - x) / length), 0);
        const [left, right] = [slope(low, middle, STEP), slope(middle, high, STEP)];
        const numeric = (left + right) / 2;
        const array = computed[`d${i}`]?.data;
        const analytic = array ? array.reduce((sum, x, at) => sum + x * (direction[at] as number), 0) : 0;
        const scale = Math.max(1, Math.abs(numeric), Math.abs(analytic));
        if (Number.isFinite(numeric) && Number.isNaN(analytic)) return `the gradient of ${name} at ${key} is NaN`;
        if (!Number.isFinite(numeric) || Math.abs(numeric - analytic) <= 1e-4 * scale) continue;
        // At a kink the two sides differ, and at a jump the slope grows as the step shrinks.
        const isOff = (a: number, b: number) => Math.abs(a - b) > 1e-3 * Math.max(1, Math.abs(a), Math.abs(b));
        if (isOff(left, right) || isOff(numeric, slope(at(-STEP / 4), at(STEP / 4), STEP / 2))) continue;
        if (!array) note = `!the output ${name} has no gradient with respect to ${key}`;
        else return `the gradient of ${name} at ${key} is ${analytic}, expected ${numeric}`;
      }
    }
  }
  return note;
}

async function main(folder: string, only = ""): Promise<void> {
  const { version, tests } = JSON.parse(await readFile(join(folder, "tests.json"), "utf8")) as {
    version: string;
    tests: NodeTest[];
  };
  const data = await readFile(join(folder, "data.bin"));
  const read = ({ shape = [], offset }: Stored): F64Array => {
    const bytes = data.buffer.slice(
      data.byteOffset + (offset ?? 0),
      data.byteOffset + (offset ?? 0) + 8 * sizeOf(shape),
    );
    return { shape, data: new Float64Array(bytes) };
  };
  const runtime = await Runtime.start({ threads: 1 });
  const rows: { test: string; outcome: Outcome }[] = [];
  for (const test of tests.filter(({ name }) => name.includes(only))) {
    const outcome = await runNodeTest(runtime, join(folder, `${test.name}.onnx`), test, read);
    rows.push({ test: test.name, outcome });
    if (only) console.log(test.name, outcome);
  }
  await runtime.close();
  if (!only) for (const line of table(rows, version)) console.log(line);
}

/** Lines of Markdown: totals, then each operator's counts and the reasons of what is not right. */
function table(rows: readonly { readonly test: string; readonly outcome: Outcome }[], version: string): string[] {
  const count = (kind: Outcome["kind"]) => rows.filter(({ outcome }) => outcome.kind === kind).length;
  const list = (kind: Exclude<Outcome["kind"], "right">) => {
    const reasons = new Map<string, string[]>();
    for (const { test, outcome } of rows) {
      if (outcome.kind !== kind || !("reason" in outcome)) continue;
      reasons.set(outcome.reason, [...(reasons.get(outcome.reason) ?? []), test.replace(/^test_/, "")]);
    }
    return [...reasons]
      .sort(([, a], [, b]) => b.length - a.length)
      .map(
        ([reason, tests]) =>
          `| ${tests.length} | ${reason.replaceAll("|", "\\|").slice(0, 300)} | ${tests.join(" ")} |`,
      );
  };
  const heading = ["| tests | reason | names |", "| ---: | --- | --- |"];
  return [
    "# The node tests of the ONNX project",
    "",
    `Package onnx ${version}, ${rows.length} tests. Made by \`parity/onnx_nodes.py\` and \`parity/onnx_nodes.ts\`.`,
    "",
    `| right | right with a restriction | refused | wrong |`,
    "| ---: | ---: | ---: | ---: |",
    `| ${count("right")} | ${count("restricted")} | ${count("refused")} | ${count("wrong")} |`,
    ...(["wrong", "restricted", "refused"] as const).flatMap((kind) => [
      "",
      `## ${kind}`,
      "",
      ...heading,
      ...list(kind),
    ]),
  ];
}

if (process.argv[1]?.endsWith("onnx_nodes.js")) await main(process.argv[2] ?? "", process.argv[3]);
