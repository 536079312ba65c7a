/** Truncates a low-rank product to a lower rank without computing the full product. */

import { at, type Matrix, matrix, product, transposed } from "./matrix.js";

/**
 * Truncates the product B A, with B [m, r] and A [r, n], to rank k. B' [m, k] and A' [k, n] are the factors of the
 * nearest matrix of rank k (Eckart & Young 1936). Each gets the square root of the singular values, so both have a
 * similar scale.
 *
 *     B = Q₁ R₁, Aᵀ = Q₂ R₂        so B A = Q₁ (R₁ R₂ᵀ) Q₂ᵀ, and the core R₁ R₂ᵀ is only r x r
 *     R₁ R₂ᵀ = U Σ Vᵀ              B' = Q₁ U √Σ,  A' = √Σ Vᵀ Q₂ᵀ,  with the k largest singular values
 *
 * `singularValues` are all those of B A, in descending order.
 */
export function truncateProduct(
  b: Matrix,
  a: Matrix,
  k: number,
): { b: Matrix; a: Matrix; singularValues: Float64Array } {
  const left = qr(b);
  const right = qr(transposed(a));
  const { u, s, v } = svd(product(left.r, transposed(right.r)));
  const rank = Math.min(k, s.length);
  const scaled = (x: Matrix): Matrix => matrix(x.rows, rank, (i, j) => at(x, i, j) * Math.sqrt(s[j] as number));
  return {
    b: product(left.q, scaled(u)),
    a: transposed(product(right.q, scaled(v))),
    singularValues: s,
  };
}

/**
 * Householder QR of x [m, n]: q [m, p] with orthonormal columns and r [p, n] upper triangular, p = min(m, n). It also
 * works if columns are zero or linearly dependent, as in an untrained adapter.
 */
export function qr(x: Matrix): { q: Matrix; r: Matrix } {
  const { rows: m, columns: n } = x;
  const p = Math.min(m, n);
  const r = x.data.slice();
  const reflectors: Float64Array[] = [];
  for (let j = 0; j < p; j++) {
    const w = new Float64Array(m);
    for (let i = j; i < m; i++) w[i] = r[i * n + j] as number;
    const norm = length(w);
    // This choice of sign avoids cancellation.
    w[j] = (w[j] as number) + ((w[j] as number) < 0 ? -norm : norm);
    const size = length(w);
    if (size > 0) for (let i = j; i < m; i++) w[i] = (w[i] as number) / size;
    reflect(r, n, w, j);
    reflectors.push(w);
  }
  const q = new Float64Array(m * p);
  for (let j = 0; j < p; j++) q[j * p + j] = 1;
  for (let j = p - 1; j >= 0; j--) reflect(q, p, reflectors[j] as Float64Array, j);
  return {
    q: { rows: m, columns: p, data: q },
    r: matrix(p, n, (i, j) => (j < i ? 0 : (r[i * n + j] as number))),
  };
}

/** x ← (I − 2 w wᵀ) x, where w is zero above row `from`. */
function reflect(x: Float64Array, columns: number, w: Float64Array, from: number): void {
  const dots = new Float64Array(columns);
  for (let i = from; i < w.length; i++) {
    for (let j = 0; j < columns; j++) dots[j] = (dots[j] as number) + (w[i] as number) * (x[i * columns + j] as number);
  }
  for (let i = from; i < w.length; i++) {
    const twice = 2 * (w[i] as number);
    for (let j = 0; j < columns; j++) x[i * columns + j] = (x[i * columns + j] as number) - twice * (dots[j] as number);
  }
}

/** Far more sweeps than Jacobi rotations need in practice. */
const MAX_SWEEPS = 60;

/**
 * One-sided Jacobi SVD (Hestenes 1958) of x [m, n]: x = u diag(s) vᵀ with u [m, n], s descending and v [n, n]. It
 * rotates pairs of columns until all are orthogonal to within rounding; their norms are then the singular values. A
 * column of u is zero if its singular value is 0.
 */
export function svd(x: Matrix): { u: Matrix; s: Float64Array; v: Matrix } {
  const { rows: m, columns: n } = x;
  // Each column is an array of its own, so that a rotation reads contiguous memory.
  const columns = Array.from({ length: n }, (_, j) => Float64Array.from({ length: m }, (_, i) => at(x, i, j)));
  const rotations = Array.from({ length: n }, (_, j) => Float64Array.from({ length: n }, (_, i) => (i === j ? 1 : 0)));
  for (let sweep = 0, rotated = true; rotated && sweep < MAX_SWEEPS; sweep++) {
    rotated = false;
    for (let p = 0; p < n - 1; p++) {
      for (let q = p + 1; q < n; q++) {
        const [a, b] = [columns[p] as Float64Array, columns[q] as Float64Array];
        const [aa, bb, ab] = [dot(a, a), dot(b, b), dot(a, b)];
        if (Math.abs(ab) <= 1e-14 * Math.sqrt(aa * bb)) continue;
        rotated = true;
        const zeta = (bb - aa) / (2 * ab);
        const t = (zeta < 0 ? -1 : 1) / (Math.abs(zeta) + Math.hypot(1, zeta));
        const cos = 1 / Math.hypot(1, t);
        rotate(a, b, cos, cos * t);
        rotate(rotations[p] as Float64Array, rotations[q] as Float64Array, cos, cos * t);
      }
    }
  }
  const lengths = columns.map(length);
  const order = lengths.map((_, j) => j).sort((i, j) => (lengths[j] as number) - (lengths[i] as number));
  const s = Float64Array.from(order, (j) => lengths[j] as number);
  return {
    u: matrix(m, n, (i, j) =>
      (s[j] as number) > 0 ? (columns[order[j] as number]?.[i] as number) / (s[j] as number) : 0,
    ),
    s,
    v: matrix(n, n, (i, j) => rotations[order[j] as number]?.[i] as number),
  };
}

function rotate(a: Float64Array, b: Float64Array, cos: number, sin: number): void {
  for (let i = 0; i < a.length; i++) {
    const [x, y] = [a[i] as number, b[i] as number];
    a[i] = cos * x - sin * y;
    b[i] = sin * x + cos * y;
  }
}

function dot(a: Float64Array, b: Float64Array): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += (a[i] as number) * (b[i] as number);
  return sum;
}

function length(x: Float64Array): number {
  return Math.sqrt(dot(x, x));
}
