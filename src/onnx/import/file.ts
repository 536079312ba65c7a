/** Opens an ONNX file: decodes it, checks its tensors, and lists its inputs and outputs. */
import { createHash } from "node:crypto";
import { realpath } from "node:fs/promises";
import type {
  AttributeProto,
  FunctionProto,
  GraphProto,
  ModelProto,
  NodeProto,
  TensorProto,
  ValueInfoProto,
} from "onnx-buf";
import { InputError } from "../../errors/index.js";
import { asInputError, readFully, withFile } from "../../io/files.js";
import type { DType } from "../../tensor/dtype.js";
import type { HostTensor } from "../../tensor/host.js";
import { sizeOf } from "../../tensor/shape.js";
import type { StoredTensor, WeightSource } from "../../weights/source.js";
import { decodeModel } from "./decode.js";
import { dtypeOf, typeName } from "./element-types.js";
import { type OnnxTensor, TensorReader } from "./tensors.js";

/** Limit of a protobuf message. Larger models keep their weights in separate files. */
const MAX_BYTES = 2 ** 31;
/** Older opsets define several operators differently, such as broadcasting in Add. */
const MIN_OPSET = 7;
const NEWEST_OPSET = 26;
/** ONNX's own domain has two names. */
const ONNX_DOMAINS = ["", "ai.onnx"];

/** An ONNX file whose tensors were read and checked. Its nodes are checked later, by `OnnxImport`. */
export interface OnnxFile {
  readonly path: string;
  /** The exporter and its version, such as "pytorch 2.6". */
  readonly producer: string;
  /** Version of the standard operator set. A function of the file may have its own. */
  readonly opset: number;
  readonly graph: GraphProto;
  /** Functions that the file defines, by `functionKey`. */
  readonly functions: ReadonlyMap<string, FunctionProto>;
  readonly inputs: readonly OnnxInput[];
  readonly outputs: readonly string[];
  /** Names of all tensors that nodes of the main graph compute, outputs included. */
  readonly computed: readonly string[];
  /** What the exporter noted, such as the labels of a detector of Ultralytics (`names`). */
  readonly metadata: ReadonlyMap<string, string>;
  readonly tensors: ReadonlyMap<TensorProto, OnnxTensor>;
  /** The tensors of kind "weight" in `tensors`, by name. */
  readonly weights: WeightSource;
  /** SHA-256 of the file, without the bytes of its weights: uint8 [32]. */
  readonly digest: HostTensor;
  /** Number of elements in all floating point tensors. */
  readonly parameters: number;
  /** How often each operator occurs, in the order of the first occurrence. */
  readonly operators: ReadonlyMap<string, number>;
}

/** An input of the model. A string is the name of a dynamic axis, undefined a dynamic axis without a name. */
export interface OnnxInput {
  readonly name: string;
  readonly dtype: DType;
  /** Its TensorProto.DataType in the file. */
  readonly elementType: number;
  readonly shape: readonly (number | string | undefined)[];
}

/** The shape of an input, such as `[n, 3, 224, 224]`, with `?` for a dynamic axis without a name. */
export function showInputShape(shape: OnnxInput["shape"]): string {
  return `[${shape.map((extent) => extent ?? "?").join(", ")}]`;
}

/**
 * Reads an ONNX file. Large tensors stay on disk.
 *
 * @throws InputError `file-malformed` if the file is damaged or not an ONNX file, `file-too-large`, or `onnx-unsupported` if
 * its opset, the type of an input or the type of a tensor is not supported.
 */
export async function openOnnx(path: string): Promise<OnnxFile> {
  const bytes = await withFile(path, async (file, size) => {
    if (size > MAX_BYTES) {
      throw new InputError(
        "file-too-large",
        `${path}: the file has ${size} bytes, but an ONNX file has at most ${MAX_BYTES}. Export larger models with external data.`,
        { path, found: size, limit: MAX_BYTES },
      );
    }
    const content = new Uint8Array(size);
    await readFully(file, content, 0, path);
    return content;
  });
  const realPath = await realpath(path).catch((error: unknown) => {
    throw asInputError(error, path, "read");
  });
  const model = decodeModel(bytes, path);
  const { graph } = model;
  if (!graph || graph.node.length === 0) {
    throw new InputError(
      "file-malformed",
      `${path}: the file has no graph with nodes. Is it an ONNX file? If so, download or export it again.`,
      { path },
    );
  }
  const opset = opsetOf(model.opsetImport, { path });
  const reader = new TensorReader(path, realPath, bytes);
  const tensors = new Map<TensorProto, OnnxTensor>();
  const weights = new Map<string, StoredTensor>();
  const names = new Set<string>();
  let parameters = 0;
  for (const [proto, ownName] of allTensors(model)) {
    let name = ownName;
    for (let i = 1; names.has(name); i++) name = `${ownName}#${i}`;
    names.add(name);
    const tensor = await reader.read(proto, name);
    tensors.set(proto, tensor);
    dropElements(proto);
    if (tensor.kind === "weight") weights.set(tensor.name, tensor.stored);
    const { shape, dtype } = tensor.kind === "weight" ? tensor.stored : tensor;
    if (dtype.includes("float")) parameters += sizeOf(shape);
  }
  const digest = digestOf(bytes, realPath, weights.values());
  // Copies, so that the decoded strings do not keep the memory of the whole file.
  for (const attribute of allAttributes(model)) {
    attribute.s = attribute.s.slice();
    attribute.strings = attribute.strings.map((string) => string.slice());
  }
  const initialized = new Set(graph.initializer.map(({ name }) => name));
  return {
    path,
    producer: `${model.producerName} ${model.producerVersion}`.trim().slice(0, 100),
    opset,
    graph,
    functions: new Map(model.functions.map((body) => [functionKey(body.domain, body.name, body.overload), body])),
    inputs: graph.input.filter(({ name }) => !initialized.has(name)).map((info) => inputOf(info, path)),
    outputs: graph.output.map(({ name }) => name),
    computed: graph.node.flatMap(({ output }) => output.filter((name) => name !== "")),
    metadata: new Map(model.metadataProps.map(({ key, value }) => [key, value])),
    tensors,
    weights: { describe: path, names: () => weights.keys(), get: (name) => weights.get(name) },
    digest,
    parameters,
    operators: countOperators(graph.node),
  };
}

function digestOf(bytes: Uint8Array, path: string, weights: Iterable<StoredTensor>): HostTensor {
  const hash = createHash("sha256");
  const inside = [...weights].flatMap((stored) => (stored.kind === "file" && stored.path === path ? [stored] : []));
  let at = 0;
  for (const { offset, length } of inside.sort((a, b) => a.offset - b.offset)) {
    hash.update(bytes.subarray(at, offset));
    at = offset + length;
  }
  hash.update(bytes.subarray(at));
  return { dtype: "uint8", shape: [32], data: new Uint8Array(hash.digest()) };
}

export const functionKey = (domain: string, name: string, overload: string) =>
  JSON.stringify([ONNX_DOMAINS.includes(domain) ? "" : domain, name, overload]);

/** Version of the standard operator set that a model, or one of its functions, imports. */
export function opsetOf(imports: ModelProto["opsetImport"], site: { path: string; function?: string }): number {
  const own = imports.find(({ domain }) => ONNX_DOMAINS.includes(domain));
  // A model of other domains alone, such as ai.onnx.ml, uses no standard operator.
  const version = Number(own?.version ?? (imports.length > 0 ? NEWEST_OPSET : 0));
  if (version < MIN_OPSET) {
    const what = site.function === undefined ? "the model" : `the function ${JSON.stringify(site.function)}`;
    throw new InputError(
      "onnx-unsupported",
      `${site.path}: ${what} uses opset ${version}, but the oldest supported opset is ${MIN_OPSET}. Export the model again with opset 17 or later.`,
      { ...site, opset: version, expected: MIN_OPSET },
    );
  }
  return version;
}

/** Drops elements that have been read. They share the memory of the whole file and would keep it as long as the graph. */
function dropElements(proto: TensorProto): void {
  proto.rawData = new Uint8Array();
  [proto.floatData, proto.int32Data, proto.doubleData] = [[], [], []];
  [proto.int64Data, proto.uint64Data, proto.stringData] = [[], [], []];
}

/** Every tensor with a name: initializers and tensor attributes, including those of branches and functions. */
function* allTensors(model: ModelProto): Generator<[TensorProto, string]> {
  if (model.graph) yield* tensorsOfGraph(model.graph);
  for (const body of model.functions) {
    yield* tensorsOfNodes(body.node);
    for (const attribute of body.attributeProto) yield* tensorsOfAttribute(attribute, `${body.name}.${attribute.name}`);
  }
}

function* allAttributes(model: ModelProto): Generator<AttributeProto> {
  const graphs = model.graph ? [model.graph] : [];
  for (const body of [...graphs, ...model.functions]) yield* attributesOf(body);
  for (const { attributeProto } of model.functions) yield* attributeProto;
}

function* attributesOf(body: GraphProto | FunctionProto): Generator<AttributeProto> {
  for (const { attribute } of body.node) {
    yield* attribute;
    for (const { g } of attribute) if (g) yield* attributesOf(g);
  }
}

function* tensorsOfGraph(graph: GraphProto): Generator<[TensorProto, string]> {
  for (const tensor of graph.initializer) yield [tensor, tensor.name];
  yield* tensorsOfNodes(graph.node);
}

function* tensorsOfNodes(nodes: readonly NodeProto[]): Generator<[TensorProto, string]> {
  for (const node of nodes) {
    const name = node.output[0] || node.name;
    for (const attribute of node.attribute) yield* tensorsOfAttribute(attribute, name);
  }
}

function* tensorsOfAttribute(attribute: AttributeProto, name: string): Generator<[TensorProto, string]> {
  if (attribute.t) yield [attribute.t, name];
  if (attribute.g) yield* tensorsOfGraph(attribute.g);
}

function inputOf({ name, type }: ValueInfoProto, path: string): OnnxInput {
  const tensor = type?.value.case === "tensorType" ? type.value.value : undefined;
  const dtype = tensor && dtypeOf(tensor.elemType);
  const facts = { path, input: name };
  if (!tensor || !dtype) {
    throw new InputError(
      "onnx-unsupported",
      `${path}: the input ${JSON.stringify(name)} is ${tensor ? `a tensor of ${typeName(tensor.elemType)}` : "not a tensor"}, which is not supported. Export the model without it.`,
      { ...facts, found: tensor && typeName(tensor.elemType) },
    );
  }
  const shape = tensor.shape?.dim.map(({ value }) => {
    if (value.case === "dimParam") return value.value;
    // Some exporters write 0 or -1 for a dynamic axis.
    return value.case === "dimValue" && value.value > 0n ? Number(value.value) : undefined;
  });
  if (!shape) {
    throw new InputError(
      "onnx-unsupported",
      `${path}: the input ${JSON.stringify(name)} has no shape. Export the model again, with the shapes of its inputs.`,
      facts,
    );
  }
  return { name, dtype, elementType: tensor.elemType, shape };
}

function countOperators(nodes: readonly NodeProto[]): Map<string, number> {
  const counts = new Map<string, number>();
  for (const { opType } of nodes) counts.set(opType, (counts.get(opType) ?? 0) + 1);
  return counts;
}
