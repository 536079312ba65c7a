import { InputError, quote } from "../errors/index.js";
import { type Cluster, singleProcess } from "./cluster.js";
import { type Environment, launcherOf, libraryNames } from "./launcher.js";

/** Seconds without a message from a rank after which the run ends. ALIGNPROP_MPI_LIMIT overrides it. */
const DEFAULT_LIMIT = 30;
const HIGHEST_LIMIT = 3600;

/**
 * Joins the run that an MPI launcher started this process for. Without a launcher, the run is this process alone.
 *
 * @throws InputError `setting-invalid` if ALIGNPROP_MPI_LIMIT is not a valid number, `ranks-unavailable` if MPI cannot be used
 * @example
 * // mpirun -n 4 node train.js
 * const cluster = await connect();
 * await train(settings, observer, { cluster });
 * await cluster.close();
 */
export async function connect(env: Environment = process.env): Promise<Cluster> {
  const launcher = launcherOf(env);
  if (launcher === undefined || launcher.size === 1) return singleProcess();
  const limit = env.ALIGNPROP_MPI_LIMIT ? Number(env.ALIGNPROP_MPI_LIMIT) : DEFAULT_LIMIT;
  if (!(limit > 0 && limit <= HIGHEST_LIMIT)) {
    const found = env.ALIGNPROP_MPI_LIMIT ?? "";
    throw new InputError(
      "setting-invalid",
      `ALIGNPROP_MPI_LIMIT is ${quote(found)}. It must be a number of seconds above 0 and at most ${HIGHEST_LIMIT}, ` +
        "after which a silent rank counts as lost.",
      { setting: "ALIGNPROP_MPI_LIMIT", found, limit: HIGHEST_LIMIT },
    );
  }
  // Load native code only if it is needed.
  const { MpiCluster } = await import("./mpi-cluster.js");
  return MpiCluster.connect(launcher, { libraries: libraryNames(launcher, env), limit });
}
