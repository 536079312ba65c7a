import { expect, test } from "vitest";
import { inputError } from "../../test/errors.js";
import { connect } from "./connect.js";
import { launcherOf, libraryNames } from "./launcher.js";

test("a process without a launcher is a run of its own", async () => {
  expect(launcherOf({})).toBeUndefined();
  const cluster = await connect({});
  expect(cluster).toMatchObject({ rank: 0, size: 1, localRank: 0, localSize: 1 });
  const values = Float64Array.of(1, 2);
  await cluster.sum(values);
  expect([...values]).toEqual([1, 2]);
  expect(await cluster.allGather("a")).toEqual(["a"]);
  expect(await cluster.gather("a")).toEqual(["a"]);
  expect(await cluster.broadcast("a")).toBe("a");
});

test("a run of one process rejects all operations after it was asked to stop", async () => {
  const cluster = await connect({});
  cluster.stop();
  expect(cluster.ended.reason.name).toBe("StopRequest");
  await expect(cluster.sum(new Float64Array(1))).rejects.toBe(cluster.ended.reason);
});

test("one process needs no MPI library, even if a launcher started it", async () => {
  const alone = { OMPI_COMM_WORLD_RANK: "0", OMPI_COMM_WORLD_SIZE: "1", ALIGNPROP_MPI: "libnothing.so" };
  expect((await connect(alone)).size).toBe(1);
});

test("launchers are detected by their environment variables", () => {
  const known = (env: Record<string, string>) => {
    const launcher = launcherOf(env);
    return launcher && [launcher.rank, launcher.size, ...launcher.families];
  };
  expect(known({ OMPI_COMM_WORLD_RANK: "1", OMPI_COMM_WORLD_SIZE: "4" })).toEqual([1, 4, "Open MPI"]);
  expect(known({ PMI_RANK: "2", PMI_SIZE: "4" })).toEqual([2, 4, "MPICH", "Open MPI"]);
  const task = { SLURM_PROCID: "3", SLURM_STEP_NUM_TASKS: "8", SLURM_NTASKS: "8" };
  expect(known({ ...task, PMIX_RANK: "3" })).toEqual([3, 8, "Open MPI", "MPICH"]);
  // Within a Slurm allocation, Open MPI's mpirun starts one daemon per host with srun.
  expect(known({ ...task, OMPI_COMM_WORLD_RANK: "5", OMPI_COMM_WORLD_SIZE: "16" })).toEqual([5, 16, "Open MPI"]);
  // A batch script is a single process, whatever the size of the allocation.
  expect(known({ SLURM_PROCID: "0", SLURM_NTASKS: "8" })).toBeUndefined();
  expect(known({ PMI_RANK: "x", PMI_SIZE: "4" })).toBeUndefined();
  expect(known({ PMI_RANK: "4", PMI_SIZE: "4" })).toBeUndefined();
});

test("the launcher decides which library is loaded, unless ALIGNPROP_MPI is set", () => {
  expect(libraryNames({ families: ["Open MPI"] }, {}, "linux")).toEqual(["libmpi.so.40"]);
  expect(libraryNames({ families: ["MPICH"] }, {}, "linux")).toEqual(["libmpich.so.12", "libmpi.so.12"]);
  expect(libraryNames({ families: ["Open MPI"] }, {}, "darwin")).toEqual(["libmpi.40.dylib"]);
  expect(libraryNames({ families: ["MPICH"] }, { ALIGNPROP_MPI: "/opt/libmpi.so" }, "linux")).toEqual([
    "/opt/libmpi.so",
  ]);
});

test("an invalid limit is refused", async () => {
  const env = { PMI_RANK: "0", PMI_SIZE: "2" };
  for (const ALIGNPROP_MPI_LIMIT of ["soon", "0", "-1", "1e9"]) {
    await expect(connect({ ...env, ALIGNPROP_MPI_LIMIT })).rejects.toThrow(
      inputError("setting-invalid", { setting: "ALIGNPROP_MPI_LIMIT", found: ALIGNPROP_MPI_LIMIT, limit: 3600 }),
    );
  }
});
