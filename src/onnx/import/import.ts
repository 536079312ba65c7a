/** Turns the nodes of an ONNX file into values of our graph. */
import type { AttributeProto, FunctionProto, GraphProto, NodeProto, TensorProto } from "onnx-buf";
import { type ErrorCode, type ErrorFacts, InputError, nearest } from "../../errors/index.js";
import { type Node, showType, type Value } from "../../graph/value.js";
import { cast, constant, parameter, straightThrough } from "../../ops/index.js";
import { isFloating } from "../../tensor/dtype.js";
import { sizeOf } from "../../tensor/shape.js";
import { differentiableBefore } from "./before.js";
import { ConstantFolder } from "./constant-folding.js";
import { describe, qualified, short, show, site } from "./describe.js";
import { functionKey, type OnnxFile, opsetOf } from "./file.js";
import { numbersOf, OnnxNode, UnsupportedNode } from "./node.js";
import { OPERATORS } from "./operators/index.js";
import { refusal } from "./operators/refused.js";
import { attributesOf, elementTypeOf, type Scope } from "./scope.js";

/** Limit on nodes per import. The body of a function counts at each call. The largest published models have a few thousand. */
const MAX_NODES = 100_000;
const MAX_CALL_DEPTH = 50;
const MAX_ELEMENTS = 2 ** 31;

export interface ImportOptions {
  /** Put before the names of the weights in the graph. */
  readonly prefix?: string;
  /**
   * Rounding (Round, Floor, Ceil, casts to integers and back) has the derivative 0. With this, it passes the gradient as if it
   * did not round. QuantizeLinear always does, within its range.
   */
  readonly straightThrough?: boolean;
}

const AGAIN = "Export the model again";

/**
 * Builds values of our graph for the outputs of an ONNX file from values for its inputs. Only the nodes that a requested
 * output depends on are imported. Whatever depends on shapes and constants alone is folded with the float64 interpreter of
 * the tests. All floating point is float32.
 *
 * @example
 * const images = input([1, 3, 224, 224]);
 * const logits = new OnnxImport(await openOnnx("resnet.onnx"), { images }).output("logits");
 */
export class OnnxImport {
  private readonly main: Scope;
  private readonly origins = new WeakMap<Node, string>();
  private readonly weights = new Map<string, Value>();
  private nodes = 0;
  private readonly folder = new ConstantFolder();
  private readonly inputs: readonly Value[];
  private readonly prefix: string;
  private readonly straightThrough: boolean;
  private rounded = false;

  constructor(
    private readonly file: OnnxFile,
    inputs: Readonly<Record<string, Value>>,
    { prefix = "", straightThrough = false }: ImportOptions = {},
  ) {
    this.inputs = Object.values(inputs);
    this.prefix = prefix;
    this.straightThrough = straightThrough;
    const { graph, opset } = file;
    // What computes the inputs is not of the file.
    this.recordOrigin(Object.values(inputs), "");
    for (const { name } of file.inputs) {
      if (!inputs[name]) throw new TypeError(`OnnxImport: no value for the input ${name}`);
    }
    this.main = this.scopeOf(graph, {
      opset,
      values: new Map(Object.entries(inputs)),
      parent: undefined,
      attributes: undefined,
      depth: 0,
    });
  }

  /**
   * The value of one of the file's outputs.
   *
   * @throws InputError `onnx-unsupported` or `file-malformed`, naming the node that cannot be imported.
   */
  output(name: string): Value {
    return this.resolve(this.main, name);
  }

  /** Names of the nearest tensors before a value that have a gradient with respect to the inputs. */
  before(value: Value): string[] {
    return differentiableBefore([value], this.main.values, this.inputs);
  }

  /** Whether an imported node rounds a value that depends on the inputs. */
  get rounds(): boolean {
    return this.rounded;
  }

  /** The ONNX node that a node of our graph comes from, such as `node "/conv1/Conv" (Conv)`. */
  originOf(node: Node): string | undefined {
    return this.origins.get(node) || undefined;
  }

  private scopeOf(
    body: Pick<GraphProto, "node" | "initializer"> | FunctionProto,
    rest: Pick<Scope, "opset" | "values" | "parent" | "attributes" | "depth">,
  ): Scope {
    const initializers = new Map<string, TensorProto>();
    const producers = new Map<string, NodeProto>();
    const claim = (name: string) => {
      if (initializers.has(name) || producers.has(name) || rest.values.has(name)) {
        const message = `the name ${show(name)} is defined twice. ${AGAIN}`;
        throw this.fault("file-malformed", message, { name: short(name) });
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

  /** The value of a name, after the values that it depends on. Not recursive along the graph, which may be deep. */
  private resolve(scope: Scope, name: string): Value {
    const stack: { node: NodeProto; next: number }[] = [];
    /** The value of a name if it is known. If not, its node is put on the stack. */
    const want = (wanted: string, reader: string): Value | undefined => {
      const known = scope.values.get(wanted) ?? this.initializer(scope, wanted);
      if (known) return known;
      const node = scope.producers.get(wanted);
      if (!node) {
        if (scope.parent) return this.resolve(scope.parent, wanted);
        const near = nearest(wanted, scope.producers.keys());
        throw this.fault(
          "file-malformed",
          `${reader} ${show(wanted)}, which no node or initializer defines${near ? `; the nearest name is ${show(near)}` : ""}. ${AGAIN}`,
          { name: short(wanted), suggestion: near },
        );
      }
      if (scope.visiting.has(node)) {
        const message = `it depends on its own output ${show(wanted)}. ${AGAIN}`;
        throw this.nodeFault("file-malformed", node, message, { name: short(wanted) });
      }
      scope.visiting.add(node);
      stack.push({ node, next: 0 });
      return undefined;
    };
    want(name, "an output has the name");
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
    const value = scope.values.get(name) ?? this.initializer(scope, name);
    if (!value) throw this.absentOutput(name);
    return value;
  }

  private initializer(scope: Scope, name: string): Value | undefined {
    const proto = scope.initializers.get(name);
    return proto && this.tensor(proto);
  }

  private tensor(proto: TensorProto): Value {
    const tensor = this.file.tensors.get(proto);
    if (!tensor) throw new TypeError(`OnnxImport: the tensor ${proto.name} was not read with the file`);
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
    if (++this.nodes > MAX_NODES) {
      const message = `the model has more than ${MAX_NODES} nodes, counting the body of a function at each call. Choose a smaller model`;
      throw this.fault("onnx-unsupported", message, { limit: MAX_NODES });
    }
    const inputs = node.input.map((name) => (name === "" ? undefined : this.lookup(scope, name)));
    const attributes = attributesOf(node, scope);
    const body = this.file.functions.get(functionKey(node.domain, node.opType, node.overload));
    if (body) return this.call(scope, node, body, { inputs, attributes });
    if (node.opType === "If") return this.branch(scope, node, inputs[0], attributes);
    try {
      const operator = Object.hasOwn(OPERATORS, qualified(node)) ? OPERATORS[qualified(node)] : undefined;
      if (!operator) throw unknown(node);
      const value = attributes.get("value")?.t;
      const reader = new OnnxNode({
        operator: node.opType,
        opset: scope.opset,
        inputs,
        outputs: node.output.findLastIndex((name) => name !== "") + 1,
        attributes,
        tensor: value && this.tensor(value),
        types: node.input.map(
          (name) => elementTypeOf(scope, name) ?? this.file.inputs.find((input) => input.name === name)?.elementType,
        ),
        throughRounding: (rounded, like) => this.throughRounding(rounded, like),
      });
      const result = operator(reader);
      const outputs = "node" in result ? [result] : result;
      reader.requireRead(outputs.length);
      const made = outputs.filter((output) => output !== undefined);
      for (const output of made) this.check(output);
      const isConstant = inputs.every((input) => !input || numbersOf(input));
      const folded = isConstant ? this.folder.fold(made) : made;
      this.recordOrigin(folded, describe(node));
      return outputs.map((output) => output && folded[made.indexOf(output)]);
    } catch (error) {
      // The shape rules of ops throw these two. Whatever they complain of comes from the file.
      if (error instanceof TypeError || error instanceof RangeError) {
        const isUnsupported = error instanceof UnsupportedNode;
        const facts = isUnsupported ? error.facts : {};
        const given = inputs.filter((input) => input !== undefined);
        const before = isUnsupported ? differentiableBefore(given, this.main.values, this.inputs) : [];
        const instead = `Tensors before it that have a gradient, for reward.output: ${before.map(show).join(", ")}`;
        const reason = before.length > 0 ? `${error.message}. ${instead}` : error.message;
        throw this.fault(
          "onnx-unsupported",
          `${describe(node)}: ${reason}`,
          { ...site(node), reason, ...facts, ...(before.length > 0 && { before }) },
          error,
        );
      }
      throw error;
    }
  }

  private throughRounding(rounded: Value, like: Value): Value {
    if (numbersOf(rounded) || numbersOf(like)) return rounded;
    this.rounded = true;
    return this.straightThrough ? straightThrough(rounded, like) : rounded;
  }

  /** Notes `origin` for all nodes below `values` that have no origin yet. */
  private recordOrigin(values: readonly Value[], origin: string): void {
    const open = values.map(({ node }) => node);
    for (let node = open.pop(); node; node = open.pop()) {
      if (this.origins.has(node) || node.inputs.length === 0) continue;
      this.origins.set(node, origin);
      open.push(...node.inputs.map((value) => value.node));
    }
  }

  private lookup(scope: Scope, name: string): Value {
    for (let at: Scope | undefined = scope; at; at = at.parent) {
      const value = at.values.get(name) ?? this.initializer(at, name);
      if (value) return value;
    }
    throw this.absentOutput(name);
  }

  /** Refuses shapes that are not valid or too large. */
  private check(value: Value): void {
    const { shape } = value;
    if (!shape.every((extent) => Number.isSafeInteger(extent) && extent >= 0) || sizeOf(shape) > MAX_ELEMENTS) {
      const found = showType(value);
      const message = `its result would be ${found}, but a tensor has at most ${MAX_ELEMENTS} elements`;
      throw new UnsupportedNode(message, { found, limit: MAX_ELEMENTS });
    }
  }

  private call(
    scope: Scope,
    node: NodeProto,
    body: FunctionProto,
    { inputs, attributes }: { inputs: readonly (Value | undefined)[]; attributes: ReadonlyMap<string, AttributeProto> },
  ): Value[] {
    if (scope.depth >= MAX_CALL_DEPTH) throw this.tooDeep(node, "calls of functions");
    const declared = new Set([...body.attribute, ...body.attributeProto.map(({ name }) => name)]);
    const unknown = [...attributes.keys()].find((name) => !declared.has(name));
    if (unknown !== undefined || inputs.length > body.input.length || node.output.length > body.output.length) {
      const what = unknown === undefined ? "more inputs or outputs than" : `the attribute ${short(unknown)}, unlike`;
      throw this.nodeFault("file-malformed", node, `it has ${what} the function that it calls. ${AGAIN}`, {
        attribute: unknown === undefined ? undefined : short(unknown),
      });
    }
    const values = new Map<string, Value>();
    for (const [i, name] of body.input.entries()) {
      const value = inputs[i];
      if (value) values.set(name, value);
    }
    const defaults = body.attributeProto.map((attribute) => [attribute.name, attribute] as const);
    const inner = this.scopeOf(body, {
      opset:
        body.opsetImport.length > 0
          ? opsetOf(body.opsetImport, { path: this.file.path, function: short(body.name) })
          : scope.opset,
      values,
      parent: undefined,
      attributes: new Map([...defaults, ...attributes]),
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
      throw this.nodeFault(
        "onnx-unsupported",
        node,
        "its condition depends on the image or on weights, but must be a constant. Export the model with a fixed size, or without the branch",
        { input: 0, parameter: "condition" },
      );
    }
    const name = known.data[0] ? "then_branch" : "else_branch";
    const graph = attributes.get(name)?.g;
    if (!graph) {
      throw this.nodeFault("file-malformed", node, `the attribute ${name} is missing. ${AGAIN}`, { attribute: name });
    }
    if (scope.depth >= MAX_CALL_DEPTH) throw this.tooDeep(node, "branches");
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

  private absentOutput(name: string): InputError {
    const message = `the value ${show(name)} is an optional output of its node, which is not supported. Choose another output`;
    return this.fault("onnx-unsupported", message, { name: short(name) });
  }

  private tooDeep(node: NodeProto, what: string): InputError {
    const message = `${what} are nested more than ${MAX_CALL_DEPTH} levels deep, which is not supported. Export the model without them`;
    return this.nodeFault("onnx-unsupported", node, message, { limit: MAX_CALL_DEPTH });
  }

  private nodeFault(code: ErrorCode, node: NodeProto, message: string, facts: ErrorFacts): InputError {
    return this.fault(code, `${describe(node)}: ${message}`, { ...site(node), ...facts });
  }

  private fault(code: ErrorCode, message: string, facts: ErrorFacts, cause?: Error): InputError {
    const { path } = this.file;
    return new InputError(code, `${path}: ${message.replace(/\.$/, "")}.`, { path, ...facts }, { cause });
  }
}

function unknown(node: NodeProto): UnsupportedNode {
  const { message, suggestion } = refusal(node, Object.keys(OPERATORS));
  return new UnsupportedNode(message, suggestion === undefined ? {} : { suggestion });
}
