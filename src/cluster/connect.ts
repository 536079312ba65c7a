import { InputError, quote } from "../errors/index.js";
import { type Cluster, singleProcess } from "./cluster.js";
import { type Environment, launcherOf, libraryNames } from "./launcher.js";

/** Seconds without a word from a rank after which a run ends, unless ALIGNPROP_MPI_LIMIT says another number. */
const DEFAULT_LIMIT = 30;

/** Joins the run that a launcher of MPI started this process for; without one, the process is the whole run. */
export async function connect(env: Environment = process.env): Promise<Cluster> {
  const launcher = launcherOf(env);
  if (launcher === undefined || launcher.size === 1) return singleProcess();
  const limit = env.ALIGNPROP_MPI_LIMIT ? Number(env.ALIGNPROP_MPI_LIMIT) : DEFAULT_LIMIT;
  if (!(limit > 0 && limit <= 3600)) {
    throw new InputError(
      "ranks-unavailable",
      `ALIGNPROP_MPI_LIMIT is ${quote(env.ALIGNPROP_MPI_LIMIT)}; it must be a number of seconds, at most 3600, after which a silent rank counts as lost`,
    );
  }
  // Whatever talks to native code is loaded only where it is needed.
  const { MpiCluster } = await import("./mpi-cluster.js");
  return MpiCluster.connect(launcher, { libraries: libraryNames(launcher, env), limit });
}
