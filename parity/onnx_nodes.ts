/**
 * Runs the node tests of the ONNX project, which onnx_nodes.py wrote into a folder, through the importer: values in float64
 * and in ONNX Runtime, and gradients against central differences.
 *
 *     node dist/parity/onnx_nodes.js FOLDER [NAME]      prints the table of parity/onnx_nodes.md, or the tests with NAME in them
 */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { InputError } from "../src/errors/index.js";
import { interpret } from "../src/graph/interpret.js";
import type { F64Array } from "../src/graph/value.js";
import { openOnnx } from "../src/onnx/import/file.js";
import { OnnxImport } from "../src/onnx/import/import.js";
import { constant, input } from "../src/ops/index.js";
import { Runtime } from "../src/runtime/runtime.js";
import { isFloating } from "../src/tensor/dtype.js";
import { fromNumbers, type HostTensor, toNumbers } from "../src/tensor/host.js";
import { sizeOf } from "../src/tensor/shape.js";
import { readTensor } from "../src/weights/source.js";
import { type Arrays, type Built, gradientDifference } from "./onnx_nodes_gradient.js";
import { type Outcome, table } from "./onnx_nodes_table.js";

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

if (process.argv[1]?.endsWith("onnx_nodes.js")) await main(process.argv[2] ?? "", process.argv[3]);
