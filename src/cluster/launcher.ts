/**
 * Who started this process, as far as the environment tells. MPI's launchers leave their mark there before any library of
 * MPI is loaded, so a process that nobody launched never looks for one.
 */

/** Two families of libraries, each of which only its own launchers can start. */
export type MpiFamily = "Open MPI" | "MPICH";

export interface Launcher {
  /** For messages. */
  readonly name: string;
  readonly rank: number;
  /** Processes of the run. */
  readonly size: number;
  /** Whose library is likely to understand it, the likeliest first. */
  readonly families: readonly [MpiFamily, ...MpiFamily[]];
}

export type Environment = Readonly<Record<string, string | undefined>>;

/** The innermost launcher: within Slurm's allocation `mpirun` may have started this process with its own means. */
export function launcherOf(env: Environment): Launcher | undefined {
  const found = (name: string, rank: string, size: string, families: Launcher["families"]) => {
    const [r, n] = [wholeNumber(env[rank]), wholeNumber(env[size])];
    return r === undefined || n === undefined || n < 1 || r >= n ? undefined : { name, rank: r, size: n, families };
  };
  const slurm = env.PMIX_RANK === undefined ? "Slurm's srun" : "Slurm's srun --mpi=pmix";
  return (
    found("Open MPI's mpirun", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", ["Open MPI"]) ??
    // Hydra (MPICH, Intel MPI, MVAPICH), and Slurm's pmi2, which Open MPI may have been built for as well.
    found("an mpirun of MPICH's kind", "PMI_RANK", "PMI_SIZE", ["MPICH", "Open MPI"]) ??
    // Set in the tasks of srun only. SLURM_NTASKS is also there in a batch script, which is one process.
    found(slurm, "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", ["Open MPI", "MPICH"])
  );
}

/** Names to look for, as the system's own search finds libraries, or the path that ALIGNPROP_MPI gives. */
export function libraryNames(
  { families }: Pick<Launcher, "families">,
  env: Environment,
  platform: NodeJS.Platform = process.platform,
): string[] {
  if (env.ALIGNPROP_MPI) return [env.ALIGNPROP_MPI];
  const names = platform === "darwin" ? MACOS : LINUX;
  return families.flatMap((family) => names[family]);
}

// MPICH's own builds, Intel MPI and MVAPICH say libmpi.so.12; Debian calls MPICH's libmpich.so.12.
const LINUX = { "Open MPI": ["libmpi.so.40"], MPICH: ["libmpich.so.12", "libmpi.so.12"] } as const;
const MACOS = { "Open MPI": ["libmpi.40.dylib"], MPICH: ["libmpi.12.dylib", "libmpich.12.dylib"] } as const;

function wholeNumber(text: string | undefined): number | undefined {
  return text !== undefined && /^\d{1,9}$/.test(text) ? Number(text) : undefined;
}
