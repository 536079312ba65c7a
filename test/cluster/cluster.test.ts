/** Ranks under the real launchers of both kinds of MPI, where they are installed. */
import { afterAll, describe, expect, test } from "vitest";
import { endRuns, LIMIT, mpich, openMpi, pidOf, runHere } from "./launch.js";

afterAll(endRuns);

for (const mpi of [openMpi, mpich]) {
  const { name, mpirun, install } = mpi;
  if (mpirun === undefined)
    console.warn(`skipped: no mpirun of ${name} is here (Debian and Ubuntu: apt install ${install})`);

  describe.skipIf(mpirun === undefined)(`ranks under ${name}`, () => {
    test("add, gather and tell each other what they have", async () => {
      const outcome = await (await runHere(mpi, 3, "all")).ended;
      expect(outcome.stderr).toBe("");
      expect(outcome.code).toBe(0);
      for (const rank of [0, 1, 2]) {
        const found = (await outcome.found(rank)) as Record<string, unknown>;
        expect(found).toMatchObject({ rank, size: 3, localRank: rank, localSize: 3 });
        expect(found.transport).toMatch(name);
        // Σ_r (i + 1) / (r + 1) = (i + 1) · 11/6, on both sides of the chunks' border.
        const sums = [1, 2 ** 20, 2 ** 20 + 1, 2 ** 20 + 3].map((i) => i + i / 2 + i / 3);
        expect(found.sums).toEqual(sums);
        // More digits than float32 has.
        expect(found.few).toEqual([3 + 3 * 2 ** -40, "NaN"]);
        expect(found.everywhere).toEqual([
          [0, [], "null"],
          [1, [1, 1, 1], "NaN"],
          [2, [2, 2, 2, 2, 2, 2], "NaN"],
        ]);
        expect(found.first).toEqual(rank === 0 ? [0, 3, 6] : []);
        expect(found.told).toEqual({ step: 7 });
      }
    });

    test("end together, with one message and its exit code, when one of them fails", async () => {
      const { code, errors } = await (await runHere(mpi, 3, "error")).ended;
      expect(errors).toEqual([expect.stringMatching(/^error: rank 2 \(.+\): the gradient is not finite$/)]);
      expect(code).toBe(2);
    });

    test("end when one of them is stopped by the system", async () => {
      const stopped = async (rank: number) => {
        const run = await runHere(mpi, 2, "sums");
        const pids = await Promise.all([pidOf(run, 0), pidOf(run, 1)]);
        process.kill(pids[rank] as number, "SIGSTOP");
        return run.ended;
      };
      for (const [rank, { code, errors }] of (await Promise.all([stopped(0), stopped(1)])).entries()) {
        const message = new RegExp(`^error: nothing was heard of rank ${rank} \\(.+\\) for ${LIMIT} s`);
        expect(errors).toEqual([expect.stringMatching(message)]);
        expect(code).not.toBe(0);
      }
    });

    test("end when one of them is killed", async () => {
      const run = await runHere(mpi, 2, "sums");
      await pidOf(run, 0);
      process.kill(await pidOf(run, 1), "SIGKILL");
      const { code, errors, stdout, stderr } = await run.ended;
      // The launcher sees it first, and says so.
      expect(errors).toEqual([]);
      expect(stdout + stderr).toMatch(/signal 9/);
      expect(code).not.toBe(0);
    });

    test("end when one of them lives and does not come", async () => {
      const { code, errors } = await (await runHere(mpi, 2, "late")).ended;
      expect(errors).toEqual([
        expect.stringMatching(/^error: rank 1 \(.+\) did not come to the sum of 10 numbers, .* for \d+ s: it hangs$/),
      ]);
      expect(code).toBe(1);
    });

    test("wait for one whose main thread has no time", async () => {
      const outcome = await (await runHere(mpi, 2, "busy")).ended;
      expect(outcome.stderr).toBe("");
      expect(outcome.code).toBe(0);
      expect(outcome.files).toEqual(["rank-0.json", "rank-1.json"]);
    });

    test("notice that they do not do the same", async () => {
      const { code, errors } = await (await runHere(mpi, 2, "apart")).ended;
      expect(errors).toEqual([expect.stringMatching(/^error: rank \d .* came to .*barrier|sum of 10 numbers/)]);
      expect(code).toBe(2);
    });

    test("all save and leave in good order when their launcher is asked to end", async () => {
      for (const signal of ["SIGTERM", "SIGINT"] as const) {
        const run = await runHere(mpi, 2, "sums");
        await Promise.all([pidOf(run, 0), pidOf(run, 1)]);
        run.child.kill(signal);
        const { files, errors, stderr } = await run.ended;
        expect(errors).toEqual([]);
        expect(stderr.match(/^saved$/gm)).toHaveLength(1);
        expect(files).toEqual(["rank-0.json", "rank-1.json", "stopped-0", "stopped-1"]);
      }
    });

    test("say what to install where there is no library", async () => {
      const { code, errors } = await (await runHere(mpi, 2, "all", { ALIGNPROP_MPI: "libnothing.so" })).ended;
      expect(errors).toEqual([
        expect.stringMatching(/no library of MPI can be loaded \(libnothing\.so: .*apt install/),
      ]);
      expect(code).toBe(2);
    });

    const other = [openMpi, mpich].find((one) => one !== mpi && one.mpirun !== undefined);
    test.skipIf(other === undefined)("refuse the library of another launcher", async () => {
      const { code, errors } = await (await runHere(mpi, 2, "all", { ALIGNPROP_MPI: other?.library ?? "" })).ended;
      expect(errors).toEqual([
        expect.stringMatching(/started 2 processes, but .* sees 1: it is not that launcher's MPI/),
      ]);
      expect(code).toBe(2);
    });
  });
}
