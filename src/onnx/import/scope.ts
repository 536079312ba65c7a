/** Scopes of names and attributes in an ONNX file. */
import type { AttributeProto, NodeProto, TensorProto } from "onnx-buf";
import type { Value } from "../../graph/value.js";

/** The names that are visible in the main graph, in a branch of an If, or in a call of a function. */
export interface Scope {
  readonly opset: number;
  readonly producers: ReadonlyMap<string, NodeProto>;
  readonly initializers: ReadonlyMap<string, TensorProto>;
  readonly values: Map<string, Value>;
  /** The enclosing scope of a branch. The main graph and functions have none. */
  readonly parent: Scope | undefined;
  /** Attributes of the call, which the nodes of a function may refer to. */
  readonly attributes: ReadonlyMap<string, AttributeProto> | undefined;
  readonly visiting: Set<NodeProto>;
  readonly depth: number;
}

/** The attributes of a node. In the body of a function, an attribute may refer to one of the call. */
export function attributesOf(node: NodeProto, scope: Scope): Map<string, AttributeProto> {
  const found = new Map<string, AttributeProto>();
  for (const attribute of node.attribute) {
    const actual = attribute.refAttrName === "" ? attribute : scope.attributes?.get(attribute.refAttrName);
    if (actual) found.set(attribute.name, actual);
  }
  return found;
}

/** The element type of an initializer or of the value of a Constant, a TensorProto.DataType; undefined for other names. */
export function elementTypeOf(scope: Scope, name: string): number | undefined {
  for (let at: Scope | undefined = scope; at; at = at.parent) {
    const known = at.initializers.get(name)?.dataType;
    if (known !== undefined) return known;
    const producer = at.producers.get(name);
    if (producer) return producer.attribute.find((attribute) => attribute.name === "value")?.t?.dataType;
  }
  return undefined;
}
