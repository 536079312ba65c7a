// @ts-check
/** Open MPI's `mpi.h`, versions 1.7 to 5. Handles are addresses of objects in the library. */

/** @typedef {import("./abi.js").Abi} Abi */

/**
 * @param {import("koffi").LibraryHandle} library
 * @returns {Abi | undefined} undefined if the library is not Open MPI
 */
export function openMpiAbi(library) {
  const object = (/** @type {string} */ name) => /** @type {bigint} */ (library.symbol(name));
  try {
    object("ompi_mpi_comm_world");
  } catch {
    return undefined;
  }
  return {
    family: "Open MPI",
    handle: "void*",
    world: object("ompi_mpi_comm_world"),
    byte: object("ompi_mpi_byte"),
    double: object("ompi_mpi_double"),
    sum: object("ompi_mpi_op_sum"),
    errorsReturn: object("ompi_mpi_errors_return"),
    inPlace: 1n,
    anySource: -1,
    anyTag: -1,
    sourceWord: 0,
  };
}
