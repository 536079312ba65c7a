// @ts-check
/**
 * MPICH's `mpi.h`. Handles are integers. They are the same in all libraries of the MPICH ABI Compatibility Initiative
 * (MPICH 3.1 and later, Intel MPI, MVAPICH, Cray MPICH); the version in their file names is 12.
 */

/** @type {import("./abi.js").Abi} */
export const mpichAbi = {
  family: "MPICH",
  handle: "int",
  world: 0x44000000,
  byte: 0x4c00010d,
  double: 0x4c00080b,
  sum: 0x58000003,
  errorsReturn: 0x54000001,
  // (void *) -1
  inPlace: 0xffff_ffff_ffff_ffffn,
  anySource: -2,
  anyTag: -1,
  // It follows the two words of the count.
  sourceWord: 2,
};
