/**
 * The types and constants that differ between implementations of `mpi.h`. The functions have the same names and
 * arguments everywhere.
 */
export interface Abi {
  readonly family: "Open MPI" | "MPICH";
  /** C type of communicators, datatypes, operations and error handlers. */
  readonly handle: "void*" | "int";
  readonly world: Handle;
  readonly byte: Handle;
  readonly double: Handle;
  readonly sum: Handle;
  readonly errorsReturn: Handle;
  /** MPI_IN_PLACE, a constant that is passed as an address. */
  readonly inPlace: bigint;
  readonly anySource: number;
  readonly anyTag: number;
  /** Index of the 32-bit word of MPI_Status that holds MPI_SOURCE. */
  readonly sourceWord: number;
}

export type Handle = bigint | number;
