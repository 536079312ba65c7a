import {
  add,
  cast,
  cos,
  div,
  equal,
  erf,
  exp,
  less,
  log,
  mul,
  neg,
  pow,
  power,
  sigmoid,
  sign,
  sin,
  sub,
  where,
} from "../../ops/elementwise.js";
import type { OPS } from "../../ops/table.js";
import { isFloating } from "../../tensor/dtype.js";
import type { Rules } from "../rule.js";

type Elementwise = Pick<
  typeof OPS,
  | "add"
  | "sub"
  | "mul"
  | "div"
  | "remainder"
  | "maximum"
  | "minimum"
  | "greater"
  | "less"
  | "equal"
  | "neg"
  | "exp"
  | "log"
  | "sqrt"
  | "floor"
  | "round"
  | "atan"
  | "power"
  | "straightThrough"
  | "abs"
  | "sign"
  | "tanh"
  | "sigmoid"
  | "erf"
  | "sin"
  | "cos"
  | "gelu"
  | "silu"
  | "pow"
  | "where"
  | "cast"
>;

export const elementwiseRules: Rules<Elementwise> = {
  add: (dy) => [() => dy, () => dy],
  sub: (dy) => [() => dy, () => neg(dy)],
  mul: (dy, { inputs: [a, b] }) => [() => mul(dy, b), () => mul(dy, a)],
  div: (dy, { inputs: [, b], y }) => [() => div(dy, b), () => neg(div(mul(dy, y), b))],
  // d (x - n y) / dy = -n, where n = (x - y rem) / y is a whole number.
  remainder: (dy, { inputs: [a, b], y }) => [() => dy, () => neg(mul(dy, div(sub(a, y), b)))],
  // At a tie the first operand gets the gradient, so that clip passes it at its bounds, as torch.clamp does.
  maximum: (dy, { inputs: [a, b] }) => [() => where(less(a, b), 0, dy), () => where(less(a, b), dy, 0)],
  minimum: (dy, { inputs: [a, b] }) => [() => where(less(b, a), 0, dy), () => where(less(b, a), dy, 0)],
  greater: "nondifferentiable",
  less: "nondifferentiable",
  equal: "nondifferentiable",
  neg: (dy) => [() => neg(dy)],
  exp: (dy, { y }) => [() => mul(dy, y)],
  log: (dy, { inputs: [x] }) => [() => div(dy, x)],
  sqrt: (dy, { y }) => [() => div(dy, mul(y, 2))],
  floor: "nondifferentiable",
  round: "nondifferentiable",
  atan: (dy, { inputs: [x] }) => [() => div(dy, add(mul(x, x), 1))],
  // Where the derivative has the form 0 · ∞ it is 0, as in PyTorch: x⁰ is constant, and 0ᵃ is too for a ≥ 0.
  power: (dy, { inputs: [x, a], y }) => [
    () => where(equal(a, 0), 0, mul(dy, mul(a, power(x, sub(a, 1))))),
    () => where(equal(y, 0), 0, mul(dy, mul(y, log(where(equal(y, 0), 1, x))))),
  ],
  straightThrough: (dy) => [undefined, () => dy],
  abs: (dy, { inputs: [x] }) => [() => mul(dy, sign(x))],
  sign: "nondifferentiable",
  tanh: (dy, { y }) => [() => mul(dy, sub(1, mul(y, y)))],
  sigmoid: (dy, { y }) => [() => mul(dy, mul(y, sub(1, y)))],
  // d erf / dx = 2 / √π · exp(-x²)
  erf: (dy, { inputs: [x] }) => [() => mul(dy, mul(exp(neg(mul(x, x))), 2 / Math.sqrt(Math.PI)))],
  sin: (dy, { inputs: [x] }) => [() => mul(dy, cos(x))],
  cos: (dy, { inputs: [x] }) => [() => neg(mul(dy, sin(x)))],
  // d x Φ(x) / dx = Φ(x) + x φ(x)
  gelu: (dy, { inputs: [x] }) => [
    () => {
      const distribution = add(mul(erf(mul(x, Math.SQRT1_2)), 0.5), 0.5);
      const density = mul(exp(mul(mul(x, x), -0.5)), 1 / Math.sqrt(2 * Math.PI));
      return mul(dy, add(distribution, mul(x, density)));
    },
  ],
  // d x σ(x) / dx = σ (1 + x (1 - σ)) = σ + y (1 - σ). The first form does not need y as a residual.
  silu: (dy, { inputs: [x] }) => [
    () => {
      const gate = sigmoid(x);
      return mul(dy, mul(gate, add(mul(x, sub(1, gate)), 1)));
    },
  ],
  pow: (dy, { inputs: [x], attrs: { exponent } }) => [() => mul(dy, mul(pow(x, exponent - 1), exponent))],
  where: (dy, { inputs: [condition] }) => [undefined, () => where(condition, dy, 0), () => where(condition, 0, dy)],
  cast: (dy, { inputs: [x] }) => [isFloating(x.dtype) && isFloating(dy.dtype) ? () => cast(dy, x.dtype) : undefined],
};
