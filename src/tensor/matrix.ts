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
      for (let j = 0; j < y.columns; j++) {
        data[i * y.columns + j] = (data[i * y.columns + j] as number) + factor * at(y, p, j);
      }
    }
  }
  return { rows: x.rows, columns: y.columns, data };
}

/** The Kronecker product: x [m, n], y [p, q] → [m · p, n · q]. */
export function kronecker(x: Matrix, y: Matrix): Matrix {
  return matrix(
    x.rows * y.rows,
    x.columns * y.columns,
    (i, j) => at(x, Math.floor(i / y.rows), Math.floor(j / y.columns)) * at(y, i % y.rows, j % y.columns),
  );
}

export function identity(size: number): Matrix {
  return matrix(size, size, (i, j) => (i === j ? 1 : 0));
}
