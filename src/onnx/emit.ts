import path from "node:path";
import { create, toBinary } from "@bufbuild/protobuf";
import {
  type AttributeProto,
  AttributeProto_AttributeType,
  AttributeProtoSchema,
  GraphProtoSchema,
  ModelProtoSchema,
  type NodeProto,
  NodeProtoSchema,
  OperatorSetIdProtoSchema,
  StringStringEntryProtoSchema,
  type TensorProto,
  TensorProto_DataLocation,
  TensorProtoSchema,
  TensorShapeProto_DimensionSchema,
  TensorShapeProtoSchema,
  TypeProto_TensorSchema,
  TypeProtoSchema,
  type ValueInfoProto,
  ValueInfoProtoSchema,
} from "onnx-buf";
import { InputError } from "../errors/index.js";
import { fixedNodes } from "../graph/fixed.js";
import { type Graph, topologicalOrder, verify } from "../graph/graph.js";
import {
  CONTRIB,
  type Node,
  type OnnxAttributes,
  type OnnxWriter,
  showType,
  type TensorType,
  type Value,
} from "../graph/value.js";
import { ONNX_TYPE } from "../ops/elementwise.js";
import type { DType } from "../tensor/dtype.js";
import { fromNumbers } from "../tensor/host.js";
import { type Shape, sameShape, sizeOf } from "../tensor/shape.js";
import type { StoredTensor, WeightSource } from "../weights/source.js";
import { lower, type WeightHolding } from "./lower.js";

/** LayerNormalization needs opset 17 and Gelu opset 20. ONNX Runtime 1.30 supports IR version 10. */
const OPSET = 21;
const IR_VERSION = 10;

export interface OnnxModel {
  readonly bytes: Uint8Array;
  /** Folder that the locations of external weights are relative to; undefined if no weight is external. */
  readonly weightFolder: string | undefined;
}

/**
 * Writes a graph as an ONNX model (opset 21). Weights that are stored in files are not copied: the model refers to them by
 * file, offset and length (ONNX external data). Each node's name holds the op, the type of its result and the node's index,
 * so that a message of ONNX Runtime says which node failed.
 *
 * @param holding how the program will hold its weights; it must be compiled accordingly
 * @throws InputError `tensor-missing` or `tensor-mismatch` if `weights` does not hold a parameter of the graph.
 */
export function emit(graph: Graph, weights?: WeightSource, holding: WeightHolding = "packed"): OnnxModel {
  verify(graph);
  const writer = new Writer(new Set([...Object.keys(graph.inputs), ...Object.keys(graph.outputs)]));
  const names = new Map<Value, string>();
  for (const [name, value] of Object.entries(graph.inputs)) names.set(value, name);

  const { outputs } = lower(graph, holding);
  const order = executionOrder(outputs, holding);
  const stored = storedParameters(order, weights, graph.name);
  const weightFolder = commonFolder(stored.values());
  for (const node of order) {
    if (node.op.name === "input") continue;
    const output = node.outputs[0] as Value;
    if (node.op.name === "parameter") {
      const { name } = node.attrs as { name: string };
      names.set(output, writer.parameter(name, stored.get(name) as StoredTensor, weightFolder));
      continue;
    }
    writer.label = `${node.op.name} → ${showType(output)}`;
    const results = node.op.emit(
      writer,
      node.inputs.map((value) => names.get(value) as string),
      node,
    );
    for (const [i, name] of results.entries()) names.set(node.outputs[i] as Value, name);
  }
  writer.publish(Object.entries(outputs).map(([name, value]) => [names.get(value) as string, name]));
  const model = create(ModelProtoSchema, {
    irVersion: BigInt(IR_VERSION),
    producerName: "alignprop",
    opsetImport: [
      create(OperatorSetIdProtoSchema, { domain: "", version: BigInt(OPSET) }),
      create(OperatorSetIdProtoSchema, { domain: CONTRIB, version: 1n }),
    ],
    graph: create(GraphProtoSchema, {
      name: graph.name,
      node: writer.nodes,
      initializer: writer.initializers,
      input: Object.entries(graph.inputs).map(([name, value]) => valueInfo(name, value)),
      output: Object.entries(graph.outputs).map(([name, value]) => valueInfo(name, value)),
    }),
  });
  return { bytes: toBinary(ModelProtoSchema, model), weightFolder };
}

/**
 * The nodes in the order in which they are written. Without optimizations, ONNX Runtime walks back from the outputs and
 * computes first the input that was written last. So nodes that prepare a weight are written first: they then run immediately
 * before the node that uses it, and not all at the start.
 */
function executionOrder(outputs: Readonly<Record<string, Value>>, holding: WeightHolding): readonly Node[] {
  const order = topologicalOrder(Object.values(outputs));
  if (holding === "packed") return order;
  const fixed = fixedNodes(order);
  return [...order.filter((node) => fixed.has(node)), ...order.filter((node) => !fixed.has(node))];
}

class Writer implements OnnxWriter {
  readonly nodes: NodeProto[] = [];
  readonly initializers: TensorProto[] = [];
  label = "";
  private readonly shared = new Map<string, string>();
  private count = 0;

  constructor(private readonly publicNames: ReadonlySet<string>) {}

  node(opType: string, inputs: readonly string[], attributes: OnnxAttributes = {}, outputs = 1): string[] {
    const output = Array.from({ length: outputs }, () => this.fresh("v"));
    this.nodes.push(
      create(NodeProtoSchema, {
        domain: opType.slice(0, Math.max(0, opType.lastIndexOf("."))),
        opType: opType.slice(opType.lastIndexOf(".") + 1),
        name: `${this.label} #${this.nodes.length}`,
        input: [...inputs],
        output,
        attribute: Object.entries(attributes).map(([name, value]) => attribute(name, value)),
      }),
    );
    return output;
  }

  ints(values: readonly number[]): string {
    return this.tensor(values, [values.length], "int64");
  }

  tensor(values: ArrayLike<number>, shape: Shape, dtype: DType): string {
    const { data } = fromNumbers(values, shape, dtype);
    const bytes = new Uint8Array(data.buffer as ArrayBuffer, data.byteOffset, data.byteLength);
    const key = `${dtype}${shape}:${Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString("latin1")}`;
    const known = this.shared.get(key);
    if (known) return known;
    const name = this.fresh("c");
    this.initializers.push(create(TensorProtoSchema, { name, ...tensorType({ shape, dtype }), rawData: bytes }));
    this.shared.set(key, name);
    return name;
  }

  filled(value: number, shape: Shape, dtype: DType): string {
    const key = `filled ${dtype}${shape}:${value}`;
    const known = this.shared.get(key);
    if (known) return known;
    const name = this.tensor(new Float64Array(sizeOf(shape)).fill(value), shape, dtype);
    this.shared.set(key, name);
    return name;
  }

  parameter(name: string, stored: StoredTensor, folder: string | undefined): string {
    // The prefix keeps names of weights apart from names of values.
    const unique = `weight:${name}`;
    if (this.shared.has(unique)) return unique;
    this.shared.set(unique, unique);
    const proto = create(TensorProtoSchema, { name: unique, ...tensorType(stored) });
    if (stored.kind === "file") {
      const location = path
        .relative(folder as string, stored.path)
        .split(path.sep)
        .join("/");
      proto.dataLocation = TensorProto_DataLocation.EXTERNAL;
      proto.externalData = Object.entries({ location, offset: stored.offset, length: stored.length }).map(
        ([key, value]) => create(StringStringEntryProtoSchema, { key, value: String(value) }),
      );
    } else {
      const { buffer, byteOffset, byteLength } = stored.data;
      proto.rawData = new Uint8Array(buffer as ArrayBuffer, byteOffset, byteLength);
    }
    this.initializers.push(proto);
    return unique;
  }

  /** A name that differs from every input, output and weight of the graph. */
  private fresh(prefix: "v" | "c"): string {
    for (;;) {
      const name = `${prefix}${this.count++}`;
      if (!this.publicNames.has(name)) return name;
    }
  }

  /**
   * Gives values their public names as graph outputs. A computed value is renamed, because an Identity node would copy it.
   * An Identity is only needed for a second name of the same value, and for a value that no node computes.
   */
  publish(outputs: readonly (readonly [value: string, publicName: string])[]): void {
    const computed = new Set(this.nodes.flatMap(({ output }) => output));
    const renamed = new Map<string, string>();
    for (const [value, name] of outputs) {
      if (computed.has(value) && !renamed.has(value)) renamed.set(value, name);
      else this.copy(value, name);
    }
    const now = (name: string) => renamed.get(name) ?? name;
    for (const node of this.nodes) {
      node.input = node.input.map(now);
      node.output = node.output.map(now);
    }
  }

  private copy(from: string, to: string): void {
    this.nodes.push(create(NodeProtoSchema, { opType: "Identity", name: `output ${to}`, input: [from], output: [to] }));
  }
}

function storedParameters(
  order: readonly Node[],
  weights: WeightSource | undefined,
  graph: string,
): Map<string, StoredTensor> {
  const found = new Map<string, StoredTensor>();
  for (const node of order) {
    if (node.op.name !== "parameter") continue;
    const { name, shape, dtype } = node.attrs as TensorType & { name: string };
    const stored = weights?.get(name);
    if (!stored || stored.dtype !== dtype || !sameShape(stored.shape, shape)) {
      const expected = showType({ shape, dtype });
      const facts = { graph, tensor: name, expected, source: weights?.describe };
      const needs = `the graph ${graph} needs the tensor ${name} as ${expected}`;
      if (!weights) throw new InputError("tensor-missing", `${needs}, but no weights are given.`, facts);
      if (!stored) {
        throw new InputError(
          "tensor-missing",
          `${weights.describe}: ${needs}, but there is no such tensor. Do these weights belong to this model?`,
          facts,
        );
      }
      const found = showType(stored);
      throw new InputError(
        "tensor-mismatch",
        `${weights.describe}: ${needs}, but it is ${found}. Do these weights belong to this model?`,
        { ...facts, found },
      );
    }
    found.set(name, stored);
  }
  return found;
}

/** The deepest folder that holds the files of all tensors. */
function commonFolder(tensors: Iterable<StoredTensor>): string | undefined {
  let common: string[] | undefined;
  for (const tensor of tensors) {
    if (tensor.kind !== "file") continue;
    const parts = path.dirname(tensor.path).split(path.sep);
    if (!common) {
      common = parts;
      continue;
    }
    const fork = common.findIndex((part, i) => part !== parts[i]);
    if (fork >= 0) common = common.slice(0, fork);
  }
  return common && (common.join(path.sep) || path.sep);
}

function tensorType({ shape, dtype }: TensorType) {
  return { dims: shape.map(BigInt), dataType: ONNX_TYPE[dtype] };
}

function valueInfo(name: string, { shape, dtype }: TensorType): ValueInfoProto {
  const dim = shape.map((extent) =>
    create(TensorShapeProto_DimensionSchema, { value: { case: "dimValue", value: BigInt(extent) } }),
  );
  const tensor = create(TypeProto_TensorSchema, {
    elemType: ONNX_TYPE[dtype],
    shape: create(TensorShapeProtoSchema, { dim }),
  });
  return create(ValueInfoProtoSchema, {
    name,
    type: create(TypeProtoSchema, { value: { case: "tensorType", value: tensor } }),
  });
}

function attribute(name: string, value: OnnxAttributes[string]): AttributeProto {
  const Type = AttributeProto_AttributeType;
  if (typeof value === "number") return create(AttributeProtoSchema, { name, type: Type.INT, i: BigInt(value) });
  if (typeof value === "string") {
    return create(AttributeProtoSchema, { name, type: Type.STRING, s: new TextEncoder().encode(value) });
  }
  if ("float" in value) return create(AttributeProtoSchema, { name, type: Type.FLOAT, f: value.float });
  if ("floats" in value) return create(AttributeProtoSchema, { name, type: Type.FLOATS, floats: [...value.floats] });
  return create(AttributeProtoSchema, { name, type: Type.INTS, ints: value.map(BigInt) });
}
