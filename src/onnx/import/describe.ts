/** Names of nodes and values as they appear in messages, shortened if they are long. */
import type { NodeProto } from "onnx-buf";

export const qualified = ({ domain, opType }: NodeProto) =>
  domain === "" || domain === "ai.onnx" ? opType : `${domain}.${opType}`;

/** `node "/layer1/conv1/Conv" (Conv)` */
export function describe(node: NodeProto): string {
  return `node ${show(nameOf(node))} (${short(node.opType)})`;
}

/** Facts that say which node a message is about. */
export const site = (node: NodeProto) => ({ node: short(nameOf(node)), operator: short(qualified(node)) });

/** The name of a node, or of its first output if it has none. */
const nameOf = ({ name, output }: NodeProto) => name || (output[0] ?? "");
export const short = (name: string) => (name.length > 100 ? `${name.slice(0, 99)}…` : name);
export const show = (name: string) => JSON.stringify(short(name));
