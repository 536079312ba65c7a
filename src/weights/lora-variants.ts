/**
 * The variants of LoRA whose change of a weight does not depend on the weight, as LoRA of the same change:
 *
 *     LoRA     ΔW = s · B A
 *     LoCon    ΔW = s · B M A, with a middle factor M [r, r, kh, kw] of a convolution
 *     LoHa     ΔW = s · (B₁ A₁) ⊙ (B₂ A₂)             (Hyeon-Woo et al. 2022, "FedPara"; LyCORIS, Yeh et al. 2024)
 *     LoKr     ΔW = s · W₁ ⊗ W₂, each a matrix or a product
 *
 * Each of them is a product of two factors, of a higher rank: (B₁A₁) ⊙ (B₂A₂) has the columns b₁ᵢ ⊙ b₂ⱼ and the rows
 * a₁ᵢ ⊙ a₂ⱼ, and (B₁A₁) ⊗ (B₂A₂) = (B₁ ⊗ B₂)(A₁ ⊗ A₂). So all that is done with LoRA can be done with them.
 */
import { at, identity, kronecker, type Matrix, matrix, product } from "../tensor/matrix.js";
import { type Shape, sizeOf } from "../tensor/shape.js";

/** ΔW = B A: B [out, r] and A [r, in], or for a convolution A [r, in · kh · kw]. */
export interface Factors {
  readonly up: Matrix;
  readonly down: Matrix;
}

/** A matrix as factors, the smaller of which is the identity. */
export function wholeMatrix(values: Matrix): Factors {
  const { rows, columns } = values;
  return rows <= columns ? { up: identity(rows), down: values } : { up: values, down: identity(columns) };
}

/** (B₁ A₁) ⊙ (B₂ A₂) */
export function hadamardOf(first: Factors, second: Factors): Factors {
  const [own, other] = [first.up.columns, second.up.columns];
  const pair = (r: number) => [Math.floor(r / other), r % other] as const;
  const up = matrix(first.up.rows, own * other, (row, r) => {
    const [i, j] = pair(r);
    return at(first.up, row, i) * at(second.up, row, j);
  });
  const down = matrix(own * other, first.down.columns, (r, column) => {
    const [i, j] = pair(r);
    return at(first.down, i, column) * at(second.down, j, column);
  });
  return ofSmallestRank({ up, down });
}

/** (B₁ A₁) ⊗ (B₂ A₂) */
export function kroneckerOf(first: Factors, second: Factors): Factors {
  return ofSmallestRank({ up: kronecker(first.up, second.up), down: kronecker(first.down, second.down) });
}

/** A product has no higher rank than it has rows or columns. If the factors have one, they are multiplied. */
function ofSmallestRank(factors: Factors): Factors {
  const { up, down } = factors;
  return up.columns <= Math.min(up.rows, down.columns) ? factors : wholeMatrix(product(up, down));
}

/**
 * A middle factor of a convolution, times the factor of its input channels: core [r, q, kh, kw], channels [q, in] →
 * [r, in · kh · kw].
 */
export function withCore(core: Float64Array, [rank = 0, inner = 0, ...kernel]: Shape, channels: Matrix): Matrix {
  const taps = sizeOf(kernel);
  return matrix(rank, channels.columns * taps, (i, column) => {
    const [channel, tap] = [Math.floor(column / taps), column % taps];
    let sum = 0;
    for (let j = 0; j < inner; j++) sum += (core[(i * inner + j) * taps + tap] as number) * at(channels, j, channel);
    return sum;
  });
}
