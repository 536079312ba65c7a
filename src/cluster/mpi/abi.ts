/**
 * What `mpi.h` leaves to each implementation. The functions have the same names and arguments everywhere; the types and
 * values of what they are given differ.
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
  /** MPI_IN_PLACE, an address that is none. */
  readonly inPlace: bigint;
  readonly anySource: number;
  readonly anyTag: number;
  /** Which 32-bit word of MPI_Status is MPI_SOURCE. */
  readonly sourceWord: number;
}

export type Handle = bigint | number;
