/**
 * Detects the MPI launcher of this process from its environment variables. No MPI library is needed for this, so a
 * process that was started without a launcher never looks for one.
 */

/** The two families of MPI libraries. A launcher can start only programs that use a library of its own family. */
export type MpiFamily = "Open MPI" | "MPICH";

export interface Launcher {
  /** Used in messages. */
  readonly name: string;
  readonly rank: number;
  /** The number of processes in the run. */
  readonly size: number;
  /** Families whose library may work with this launcher, the most likely one first. */
  readonly families: readonly [MpiFamily, ...MpiFamily[]];
}

export type Environment = Readonly<Record<string, string | undefined>>;

/**
 * Returns the innermost launcher: `mpirun` may run inside a Slurm allocation. Returns undefined if this process was
 * started without a launcher.
 */
export function launcherOf(env: Environment): Launcher | undefined {
  const found = (name: string, rank: string, size: string, families: Launcher["families"]) => {
    const [r, n] = [wholeNumber(env[rank]), wholeNumber(env[size])];
    return r === undefined || n === undefined || n < 1 || r >= n ? undefined : { name, rank: r, size: n, families };
  };
  const slurm = env.PMIX_RANK === undefined ? "Slurm's srun" : "Slurm's srun --mpi=pmix";
  return (
    found("Open MPI's mpirun", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", ["Open MPI"]) ??
    // Hydra (MPICH, Intel MPI, MVAPICH) and Slurm's pmi2, which Open MPI can also be built for.
    found("MPICH's mpirun", "PMI_RANK", "PMI_SIZE", ["MPICH", "Open MPI"]) ??
    // Only set in tasks of srun. SLURM_NTASKS is also set in a batch script, which is a single process.
    found(slurm, "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", ["Open MPI", "MPICH"])
  );
}

/** File names of the libraries to try, for the system's library search; or the path in ALIGNPROP_MPI if it is set. */
export function libraryNames(
  { families }: Pick<Launcher, "families">,
  env: Environment,
  platform: NodeJS.Platform = process.platform,
): string[] {
  if (env.ALIGNPROP_MPI) return [env.ALIGNPROP_MPI];
  const names = platform === "darwin" ? MACOS : LINUX;
  return families.flatMap((family) => names[family]);
}

// MPICH's own builds, Intel MPI and MVAPICH name it libmpi.so.12. Debian names MPICH's libmpich.so.12.
const LINUX = { "Open MPI": ["libmpi.so.40"], MPICH: ["libmpich.so.12", "libmpi.so.12"] } as const;
const MACOS = { "Open MPI": ["libmpi.40.dylib"], MPICH: ["libmpi.12.dylib", "libmpich.12.dylib"] } as const;

function wholeNumber(value: string | undefined): number | undefined {
  return value !== undefined && /^\d{1,9}$/.test(value) ? Number(value) : undefined;
}
