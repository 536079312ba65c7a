/** Activation functions: https://onnx.ai/onnx/operators/ */
import type { Value } from "../../../graph/value.js";
import {
  abs,
  add,
  div,
  exp,
  gelu,
  greater,
  less,
  log,
  maximum,
  minimum,
  mul,
  neg,
  quickGelu,
  sigmoid,
  silu,
  sub,
  tanh,
  where,
} from "../../../ops/index.js";
import { unary } from "./elementwise.js";
import type { Operators } from "./operator.js";

/** The gradient at 0 is 0, as in PyTorch: at a tie, `maximum` passes it to the first operand. */
const relu = (x: Value) => maximum(0, x);
/** log(1 + eˣ) = (x + |x|) / 2 + log(1 + e^-|x|). In this form the gradient at 0 is ½ too. */
const softplus = (x: Value) => add(mul(add(x, abs(x)), 0.5), log(add(exp(neg(abs(x))), 1)));
const hardSigmoid = (x: Value, slope: number, offset: number) => minimum(maximum(add(mul(x, slope), offset), 0), 1);
/** slope · (eˣ − 1) for x < 0 */
const scaledExpm1 = (x: Value, slope: number) => mul(sub(exp(minimum(x, 0)), 1), slope);
/** The approximation of GELU by a tanh (Hendrycks & Gimpel 2016). */
export function tanhGelu(x: Value): Value {
  const inner = mul(add(x, mul(mul(mul(x, x), x), 0.044715)), Math.sqrt(2 / Math.PI));
  return mul(mul(x, 0.5), add(tanh(inner), 1));
}

export const activations: Operators = {
  Relu: unary(relu),
  LeakyRelu: (node) => {
    const x = node.input(0);
    return where(greater(x, 0), x, mul(x, node.float("alpha") ?? 0.01));
  },
  PRelu: (node) => {
    const [x, slope] = [node.input(0), node.input(1)];
    return where(greater(x, 0), x, mul(x, slope));
  },
  ThresholdedRelu: (node) => {
    const x = node.input(0);
    return where(greater(x, node.float("alpha") ?? 1), x, 0);
  },
  Elu: (node) => {
    const x = node.input(0);
    return where(greater(x, 0), x, scaledExpm1(x, node.float("alpha") ?? 1));
  },
  Celu: (node) => {
    const [x, alpha] = [node.input(0), node.float("alpha") ?? 1];
    return where(greater(x, 0), x, scaledExpm1(div(x, alpha), alpha));
  },
  Selu: (node) => {
    const x = node.input(0);
    const scaled = where(greater(x, 0), x, scaledExpm1(x, node.float("alpha") ?? 1.6732632));
    return mul(scaled, node.float("gamma") ?? 1.050701);
  },
  Sigmoid: unary(sigmoid),
  HardSigmoid: (node) => hardSigmoid(node.input(0), node.float("alpha") ?? 0.2, node.float("beta") ?? 0.5),
  HardSwish: unary((x) => mul(x, hardSigmoid(x, 1 / 6, 0.5))),
  Softplus: unary(softplus),
  Shrink: (node) => {
    const [x, bias, limit] = [node.input(0), node.float("bias") ?? 0, node.float("lambd") ?? 0.5];
    return where(less(x, -limit), add(x, bias), where(greater(x, limit), sub(x, bias), mul(x, 0)));
  },
  SwiGLU: (node) => {
    const [gate, x, alpha] = [node.input(0), node.input(1), node.float("alpha") ?? 1];
    return mul(mul(gate, sigmoid(mul(gate, alpha))), x);
  },
  Softsign: unary((x) => div(x, add(abs(x), 1))),
  Mish: unary((x) => mul(x, tanh(softplus(x)))),
  Swish: (node) => {
    const [x, alpha] = [node.input(0), node.float("alpha") ?? 1];
    return alpha === 1 ? silu(x) : mul(x, sigmoid(mul(x, alpha)));
  },
  Gelu: (node) => {
    const x = node.input(0);
    if (node.choice("approximate", ["none", "tanh"], "none") === "none") return gelu(x);
    return tanhGelu(x);
  },
  "com.microsoft.Gelu": unary(gelu),
  "com.microsoft.QuickGelu": (node) => {
    const [x, alpha] = [node.input(0), node.float("alpha") ?? 1.702];
    return Math.abs(alpha - 1.702) < 1e-6 ? quickGelu(x) : mul(x, sigmoid(mul(x, alpha)));
  },
};
