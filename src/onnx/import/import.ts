import type { AttributeProto, FunctionProto, GraphProto, NodeProto, TensorProto } from "onnx-buf";
import { InputError, nearest } from "../../errors/index.js";
import { topologicalOrder } from "../../graph/graph.js";
import { interpret } from "../../graph/interpret.js";
import { type Node, showType, type Value } from "../../graph/value.js";
import { cast, constant, parameter } from "../../ops/index.js";
import { isFloating } from "../../tensor/dtype.js";
import { sizeOf } from "../../tensor/shape.js";
import { functionKey, type OnnxFile, opsetOf } from "./file.js";
import { numbersOf, OnnxNode } from "./node.js";
import { OPERATORS, REFUSED } from "./operators/index.js";

/** Nodes that one import may take, bodies of functions counted at each call. The largest published models have a few thousand. */
const MOST_NODES = 100_000;
const DEEPEST_CALLS = 50;
const MOST_ELEMENTS = 2 ** 31;
/** Multiplications and elements that are computed while importing; a constant that takes more is left to the runtime. */
const MOST_WORK = 2 ** 22;
const MOST_WORK_IN_ALL = 2 ** 27;

/** Names and what makes them: the main graph, a branch of an If, or a call of a function. */
interface Scope {
  readonly opset: number;
  readonly producers: ReadonlyMap<string, NodeProto>;
  readonly initializers: ReadonlyMap<string, TensorProto>;
  readonly values: Map<string, Value>;
  /** A branch sees the names around it; a function does not. */
  readonly parent: Scope | undefined;
  /** What a call gives for the attributes that its function's nodes refer to. */
  readonly attributes: ReadonlyMap<string, AttributeProto> | undefined;
  readonly visiting: Set<NodeProto>;
  readonly depth: number;
}

/**
 * Values of our graph for the outputs of an ONNX file, built on demand from values for its inputs. Everything that depends on
 * shapes alone is computed on the way, by the interpreter that tests use. Floating point is float32 throughout.
 */
export class OnnxImport {
  private readonly main: Scope;
  private readonly origins = new WeakMap<Node, string>();
  private readonly weights = new Map<string, Value>();
  private nodes = 0;
  private work = 0;

  /** `prefix` begins the names of the weights in the graph. */
  constructor(
    private readonly file: OnnxFile,
    inputs: Readonly<Record<string, Value>>,
    private readonly prefix = "",
  ) {
    const { graph, opset } = file;
    for (const { name } of file.inputs) {
      if (!inputs[name]) throw new TypeError(`OnnxImport: nothing is given for the input ${name}`);
    }
    this.main = this.scopeOf(graph, {
      opset,
      values: new Map(Object.entries(inputs)),
      parent: undefined,
      attributes: undefined,
      depth: 0,
    });
  }

  output(name: string): Value {
    return this.resolve(this.main, name);
  }

  /** The ONNX node that a node of our graph stands for, in words. */
  originOf(node: Node): string | undefined {
    return this.origins.get(node);
  }

  private scopeOf(
    body: Pick<GraphProto, "node" | "initializer"> | FunctionProto,
    rest: Pick<Scope, "opset" | "values" | "parent" | "attributes" | "depth">,
  ): Scope {
    const initializers = new Map<string, TensorProto>();
    const producers = new Map<string, NodeProto>();
    const claim = (name: string) => {
      if (initializers.has(name) || producers.has(name) || rest.values.has(name)) {
        throw this.fault(`the name ${show(name)} is made twice`);
      }
    };
    for (const tensor of "initializer" in body ? body.initializer : []) {
      claim(tensor.name);
      initializers.set(tensor.name, tensor);
    }
    for (const node of body.node) {
      for (const name of node.output) {
        if (name === "") continue;
        claim(name);
        producers.set(name, node);
      }
    }
    return { producers, initializers, visiting: new Set(), ...rest };
  }

  /** The value of a name, and of all that it takes; without recursion along the graph, which may be long. */
  private resolve(scope: Scope, name: string): Value {
    const stack: { node: NodeProto; next: number }[] = [];
    const want = (wanted: string, reader: string): Value | undefined => {
      const found = scope.values.get(wanted) ?? this.given(scope, wanted);
      if (found) return found;
      const node = scope.producers.get(wanted);
      if (!node) {
        if (scope.parent) return this.resolve(scope.parent, wanted);
        const near = nearest(wanted, scope.producers.keys());
        throw this.fault(
          `${reader} ${show(wanted)}, which nothing makes${near ? `; the nearest name is ${show(near)}` : ""}`,
        );
      }
      if (scope.visiting.has(node)) throw this.fault(`${describe(node)} depends on its own output ${show(wanted)}`);
      scope.visiting.add(node);
      stack.push({ node, next: 0 });
      return undefined;
    };
    want(name, "an output is called");
    for (let top = stack.at(-1); top; top = stack.at(-1)) {
      const { node } = top;
      const input = node.input[top.next];
      if (input !== undefined) {
        if (input === "" || want(input, `${describe(node)} reads`)) top.next++;
        continue;
      }
      const outputs = this.run(scope, node);
      for (const [i, output] of node.output.entries()) {
        const value = outputs[i];
        if (output !== "" && value) scope.values.set(output, value);
      }
      scope.visiting.delete(node);
      stack.pop();
    }
    const value = scope.values.get(name) ?? this.given(scope, name);
    if (!value) throw this.fault(`the output ${show(name)} is one that its node does not give here`);
    return value;
  }

  private given(scope: Scope, name: string): Value | undefined {
    const proto = scope.initializers.get(name);
    return proto && this.tensor(proto);
  }

  private tensor(proto: TensorProto): Value {
    const tensor = this.file.tensors.get(proto);
    if (!tensor) throw this.fault(`the tensor ${show(proto.name)} is not one of the file's`);
    if (tensor.kind === "constant") {
      return constant(tensor.values, tensor.shape, isFloating(tensor.dtype) ? "float32" : tensor.dtype);
    }
    let value = this.weights.get(tensor.name);
    if (!value) {
      const { shape, dtype } = tensor.stored;
      value = parameter(this.prefix + tensor.name, shape, dtype);
      if (isFloating(dtype)) value = cast(value, "float32");
      this.weights.set(tensor.name, value);
    }
    return value;
  }

  private run(scope: Scope, node: NodeProto): readonly (Value | undefined)[] {
    if (++this.nodes > MOST_NODES) throw this.fault(`takes more than ${MOST_NODES} nodes`);
    const inputs = node.input.map((name) => (name === "" ? undefined : this.lookup(scope, name)));
    const attributes = attributesOf(node, scope);
    const body = this.file.functions.get(functionKey(node.domain, node.opType, node.overload));
    if (body) return this.call(scope, node, body, inputs, attributes);
    if (node.opType === "If") return this.branch(scope, node, inputs[0], attributes);
    try {
      const operator = Object.hasOwn(OPERATORS, qualified(node)) ? OPERATORS[qualified(node)] : undefined;
      if (!operator) throw new TypeError(refusal(node));
      const value = attributes.get("value")?.t;
      const view = new OnnxNode(
        node.opType,
        scope.opset,
        inputs,
        node.output.length,
        attributes,
        value && this.tensor(value),
      );
      const made = operator(view);
      const outputs = "node" in made ? [made] : made;
      for (const output of outputs) this.check(output);
      const results = inputs.every((input) => !input || numbersOf(input)) ? this.fold(outputs) : outputs;
      this.remember(results, describe(node));
      return results;
    } catch (error) {
      // Shape rules throw these two; everything they judge came from the file.
      if (error instanceof TypeError || error instanceof RangeError) {
        throw this.fault(`${describe(node)}: ${error.message}`, error);
      }
      throw error;
    }
  }

  /** Whatever was made for these values and nothing else yet comes from the node `origin`. */
  private remember(values: readonly Value[], origin: string): void {
    const open = values.map(({ node }) => node);
    for (let node = open.pop(); node; node = open.pop()) {
      if (this.origins.has(node) || node.inputs.length === 0) continue;
      this.origins.set(node, origin);
      open.push(...node.inputs.map((value) => value.node));
    }
  }

  private lookup(scope: Scope, name: string): Value {
    for (let at: Scope | undefined = scope; at; at = at.parent) {
      const value = at.values.get(name) ?? this.given(at, name);
      if (value) return value;
    }
    throw this.fault(`${show(name)} is an output that its node does not give here`);
  }

  /** The values with constants for all that can be computed now: what reads no input and no weight, and is small. */
  private fold(values: readonly Value[]): readonly Value[] {
    const order = topologicalOrder(values);
    const work = order.reduce((total, node) => total + workOf(node), 0);
    const open = order.some(({ op }) => op.name === "parameter" || op.name === "input");
    if (open || work > MOST_WORK || this.work + work > MOST_WORK_IN_ALL) return values;
    this.work += work;
    const outputs = Object.fromEntries(values.map((value, i) => [i, value]));
    const results = interpret({ name: "constants", inputs: {}, outputs }, {});
    return values.map((value, i) => {
      if (numbersOf(value)) return value;
      const data = results[i]?.data ?? new Float64Array();
      if (!isFloating(value.dtype) && !data.every(Number.isSafeInteger)) {
        throw new RangeError("gives whole numbers that are out of range");
      }
      return constant(data, value.shape, value.dtype);
    });
  }

  private check(value: Value): void {
    const { shape } = value;
    if (!shape.every((extent) => Number.isSafeInteger(extent) && extent >= 0) || sizeOf(shape) > MOST_ELEMENTS) {
      throw new RangeError(`would give ${showType(value)}, which is more than a tensor here can hold`);
    }
  }

  private call(
    scope: Scope,
    node: NodeProto,
    body: FunctionProto,
    inputs: readonly (Value | undefined)[],
    given: ReadonlyMap<string, AttributeProto>,
  ): Value[] {
    if (scope.depth >= DEEPEST_CALLS)
      throw this.fault(`${describe(node)}: functions call each other more than ${DEEPEST_CALLS} deep`);
    const values = new Map<string, Value>();
    for (const [i, name] of body.input.entries()) {
      const value = inputs[i];
      if (value) values.set(name, value);
    }
    const defaults = body.attributeProto.map((attribute) => [attribute.name, attribute] as const);
    const inner = this.scopeOf(body, {
      opset:
        body.opsetImport.length > 0
          ? opsetOf(body.opsetImport, `${this.file.path}: function ${show(body.name)}`)
          : scope.opset,
      values,
      parent: undefined,
      attributes: new Map([...defaults, ...given]),
      depth: scope.depth + 1,
    });
    return node.output.map((_, i) => this.resolve(inner, body.output[i] ?? ""));
  }

  private branch(
    scope: Scope,
    node: NodeProto,
    condition: Value | undefined,
    attributes: ReadonlyMap<string, AttributeProto>,
  ): Value[] {
    const known = condition && numbersOf(condition);
    if (known?.data.length !== 1) {
      throw this.fault(
        `${describe(node)}: its condition depends on the picture. A graph here has one path; export the model with a fixed size, or without the branch`,
      );
    }
    const graph = attributes.get(known.data[0] ? "then_branch" : "else_branch")?.g;
    if (!graph) throw this.fault(`${describe(node)}: lacks the branch that is taken`);
    if (scope.depth >= DEEPEST_CALLS)
      throw this.fault(`${describe(node)}: branches are more than ${DEEPEST_CALLS} deep`);
    const { opset } = scope;
    const inner = this.scopeOf(graph, {
      opset,
      values: new Map(),
      parent: scope,
      attributes: scope.attributes,
      depth: scope.depth + 1,
    });
    return node.output.map((_, i) => this.resolve(inner, graph.output[i]?.name ?? ""));
  }

  private fault(message: string, cause?: Error): InputError {
    return new InputError("onnx-unsupported", `${this.file.path}: ${message}`, { path: this.file.path }, { cause });
  }
}

/** A node's attributes; in a function's body some refer to those of the call. */
function attributesOf(node: NodeProto, scope: Scope): Map<string, AttributeProto> {
  const found = new Map<string, AttributeProto>();
  for (const attribute of node.attribute) {
    const actual = attribute.refAttrName === "" ? attribute : scope.attributes?.get(attribute.refAttrName);
    if (actual) found.set(attribute.name, actual);
  }
  return found;
}

/** Elements that a node computes, times what each of them takes. */
function workOf({ op, inputs, outputs }: Node): number {
  const elements = outputs.reduce((total, { shape }) => total + sizeOf(shape), 0);
  const [a, b] = inputs;
  switch (op.name) {
    case "constant":
      return 0;
    case "matmul":
    case "gemm":
      return elements * Math.max(...(a as Value).shape.slice(-2));
    case "conv2d":
    case "convTranspose2d":
      return elements * sizeOf((b as Value).shape.slice(1));
    case "maxPool":
      return elements * sizeOf((a as Value).shape.slice(2));
    default:
      return elements + inputs.reduce((total, { shape }) => total + sizeOf(shape), 0);
  }
}

const qualified = ({ domain, opType }: NodeProto) =>
  domain === "" || domain === "ai.onnx" ? opType : `${domain}.${opType}`;

function refusal(node: NodeProto): string {
  const name = qualified(node);
  const known = Object.hasOwn(REFUSED, node.opType) ? REFUSED[node.opType] : undefined;
  if (known) return `${name} is not supported: ${known}`;
  const near = nearest(name, Object.keys(OPERATORS));
  return `the operator ${name.slice(0, 100)} is not known here${near ? ` (the nearest is ${near})` : ""}. Choose an output before it, export with another opset or exporter, or write the model with other operations`;
}

/** `node "/layer1/conv1/Conv" (Conv)` */
function describe({ name, opType, output }: NodeProto): string {
  return `node ${show(name || (output[0] ?? ""))} (${opType.slice(0, 100)})`;
}

const show = (name: string) => JSON.stringify(name.length > 100 ? `${name.slice(0, 99)}…` : name);
