/** Small dense matrices in float64, on which adapters are computed. */

/** In row-major order. */
export interface Matrix {
  readonly rows: number;
  readonly columns: number;
  readonly data: Float64Array;
}

/** The matrix of `value(row, column)`. */
export function matrix(rows: number, columns: number, value: (i: number, j: number) => number): Matrix {
  const data = new Float64Array(rows * columns);
  for (let i = 0; i < rows; i++) for (let j = 0; j < columns; j++) data[i * columns + j] = value(i, j);
  return { rows, columns, data };
}

export function at({ columns, data }: Matrix, i: number, j: number): number {
  return data[i * columns + j] as number;
}

export function transposed(x: Matrix): Matrix {
  return matrix(x.columns, x.rows, (i, j) => at(x, j, i));
}

/** Matrix product: x [m, p], y [p, n] → [m, n]. */
export function product(x: Matrix, y: Matrix): Matrix {
  const data = new Float64Array(x.rows * y.columns);
  for (let i = 0; i < x.rows; i++) {
    for (let p = 0; p < x.columns; p++) {
      const factor = at(x, i, p);
      // Half of the elements or more are 0 if one of the matrices is an identity.
      if (factor === 0) continue;
      for (let j = 0; j < y.columns; j++) {
        data[i * y.columns + j] = (data[i * y.columns + j] as number) + factor * at(y, p, j);
      }
    }
  }
  return { rows: x.rows, columns: y.columns, data };
}

/** The Kronecker product: x [m, n], y [p, q] → [m · p, n · q]. */
export function kronecker(x: Matrix, y: Matrix): Matrix {
  const columns = x.columns * y.columns;
  const data = new Float64Array(x.rows * y.rows * columns);
  for (let i = 0; i < x.rows; i++) {
    for (let j = 0; j < x.columns; j++) {
      const factor = at(x, i, j);
      if (factor === 0) continue;
      for (let k = 0; k < y.rows; k++) {
        const start = (i * y.rows + k) * columns + j * y.columns;
        for (let l = 0; l < y.columns; l++) data[start + l] = factor * at(y, k, l);
      }
    }
  }
  return { rows: x.rows * y.rows, columns, data };
}

export function identity(size: number): Matrix {
  const data = new Float64Array(size * size);
  for (let i = 0; i < size; i++) data[i * size + i] = 1;
  return { rows: size, columns: size, data };
}
