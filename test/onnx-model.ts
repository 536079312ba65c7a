/** Small ONNX files for tests. */
import { create, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import {
  type AttributeProto,
  AttributeProto_AttributeType,
  AttributeProtoSchema,
  type FunctionProto,
  FunctionProtoSchema,
  type GraphProto,
  GraphProtoSchema,
  ModelProtoSchema,
  type NodeProto,
  NodeProtoSchema,
  type TensorProto,
  TensorProtoSchema,
  ValueInfoProtoSchema,
} from "onnx-buf";
import { ONNX_TYPE } from "../src/ops/elementwise.js";
import type { DType } from "../src/tensor/dtype.js";
import { fromNumbers } from "../src/tensor/host.js";

export type Attributes = Readonly<
  Record<
    string,
    number | string | readonly number[] | { float: number } | { floats: readonly number[] } | TensorProto | GraphProto
  >
>;

/** `operator` may have a domain: `com.microsoft.FusedConv`. */
export function node(
  operator: string,
  input: readonly string[],
  output: readonly string[],
  attributes: Attributes = {},
): NodeProto {
  const dot = operator.lastIndexOf(".");
  const [domain, opType] = [operator.slice(0, Math.max(0, dot)), operator.slice(dot + 1)];
  return create(NodeProtoSchema, {
    opType,
    domain,
    name: `the ${opType}`,
    input: [...input],
    output: [...output],
    attribute: Object.entries(attributes).map(([name, value]) => attribute(name, value)),
  });
}

function attribute(name: string, value: Attributes[string]): AttributeProto {
  const Type = AttributeProto_AttributeType;
  const made = (init: MessageInitShape<typeof AttributeProtoSchema>) => create(AttributeProtoSchema, { name, ...init });
  if (typeof value === "number") return made({ type: Type.INT, i: BigInt(value) });
  if (typeof value === "string") return made({ type: Type.STRING, s: new TextEncoder().encode(value) });
  if ("float" in value) return made({ type: Type.FLOAT, f: value.float });
  if ("floats" in value) return made({ type: Type.FLOATS, floats: [...value.floats] });
  if (!("$typeName" in value)) return made({ type: Type.INTS, ints: value.map(BigInt) });
  return value.$typeName === "onnx.GraphProto"
    ? made({ type: Type.GRAPH, g: value })
    : made({ type: Type.TENSOR, t: value });
}

export function tensor(
  name: string,
  values: readonly number[],
  shape: readonly number[] = [values.length],
  dtype: DType = "int64",
): TensorProto {
  const { data } = fromNumbers(values, shape, dtype);
  return create(TensorProtoSchema, {
    name,
    dims: shape.map(BigInt),
    dataType: ONNX_TYPE[dtype],
    rawData: new Uint8Array(data.buffer as ArrayBuffer, data.byteOffset, data.byteLength),
  });
}

export const graph = (
  nodes: readonly NodeProto[],
  outputs: readonly string[],
  initializers: readonly TensorProto[] = [],
): GraphProto =>
  create(GraphProtoSchema, {
    name: "branch",
    node: [...nodes],
    initializer: [...initializers],
    output: outputs.map((name) => create(ValueInfoProtoSchema, { name })),
  });

export interface ModelInit {
  readonly nodes: readonly NodeProto[];
  /** A string stands for an extent that is not fixed. */
  readonly inputs: Readonly<Record<string, readonly (number | string)[]>>;
  readonly outputs: readonly string[];
  readonly initializers?: readonly TensorProto[];
  readonly functions?: readonly FunctionProto[];
  readonly opset?: number;
  /** Types of inputs that are not float32. */
  readonly types?: Readonly<Record<string, DType>>;
  readonly metadata?: Readonly<Record<string, string>>;
}

export function model({
  nodes,
  inputs,
  outputs,
  initializers = [],
  functions = [],
  opset = 18,
  types = {},
  metadata = {},
}: ModelInit): Uint8Array {
  const made = create(ModelProtoSchema, {
    irVersion: 9n,
    opsetImport: [
      { domain: "", version: BigInt(opset) },
      { domain: "com.microsoft", version: 1n },
      { domain: "ai.onnx.ml", version: 3n },
      ...[...new Set(functions.map(({ domain }) => domain))].map((domain) => ({ domain, version: 1n })),
    ],
    functions: [...functions],
    metadataProps: Object.entries(metadata).map(([key, value]) => ({ key, value })),
    graph: {
      name: "test",
      node: [...nodes],
      initializer: [...initializers],
      input: Object.entries(inputs).map(([name, shape]) => ({
        name,
        type: {
          value: {
            case: "tensorType" as const,
            value: {
              elemType: ONNX_TYPE[types[name] ?? "float32"],
              shape: {
                dim: shape.map((extent) => ({
                  value:
                    typeof extent === "number"
                      ? { case: "dimValue" as const, value: BigInt(extent) }
                      : { case: "dimParam" as const, value: extent },
                })),
              },
            },
          },
        },
      })),
      output: outputs.map((name) => ({ name })),
    },
  });
  return toBinary(ModelProtoSchema, made);
}

export const functionProto = (init: MessageInitShape<typeof FunctionProtoSchema>) => create(FunctionProtoSchema, init);
