/** Ranks under the real launchers of Open MPI and MPICH, if they are installed. */
import { hostname } from "node:os";
import { afterAll, describe, expect, test } from "vitest";
import { endRuns, LIMIT, mpich, openMpi, pidOf, runHere } from "./launch.js";

afterAll(endRuns);

for (const mpi of [openMpi, mpich]) {
  const { name, mpirun, install } = mpi;
  if (mpirun === undefined)
    console.warn(`skipped: ${name} is not installed (Debian and Ubuntu: apt install ${install})`);

  describe.skipIf(mpirun === undefined)(`ranks under ${name}`, () => {
    test("sum, gather and broadcast", async () => {
      const outcome = await (await runHere(mpi, 3, "all")).ended;
      expect(outcome.stderr).toBe("");
      expect(outcome.code).toBe(0);
      for (const rank of [0, 1, 2]) {
        const found = (await outcome.found(rank)) as Record<string, unknown>;
        expect(found).toMatchObject({ rank, size: 3, localRank: rank, localSize: 3 });
        expect(found.transport).toMatch(name);
        // Σ_r (i + 1) / (r + 1) = (i + 1) · 11/6, on both sides of the border between two chunks.
        const sums = [1, 2 ** 20, 2 ** 20 + 1, 2 ** 20 + 3].map((i) => i + i / 2 + i / 3);
        expect(found.sums).toEqual(sums);
        // float32 cannot represent these digits.
        expect(found.few).toEqual([3 + 3 * 2 ** -40, "NaN"]);
        expect(found.everywhere).toEqual([
          [0, [], "null"],
          [1, [1, 1, 1], "NaN"],
          [2, [2, 2, 2, 2, 2, 2], "NaN"],
        ]);
        expect(found.first).toEqual(rank === 0 ? [0, 3, 6] : []);
        expect(found.shared).toEqual({ step: 7 });
      }
    });

    test("end together, with one message and its exit code, when one of them fails", async () => {
      const { code, errors, failure } = await (await runHere(mpi, 3, "error")).ended;
      expect(errors).toEqual([expect.stringContaining("the gradient is not finite")]);
      expect(await failure()).toMatchObject({
        ranks: [2],
        code: "not-finite",
        facts: { rank: 2, host: hostname(), tensor: "g" },
      });
      expect(code).toBe(2);
    });

    test("report an error of all ranks without the name of a rank", async () => {
      const { code, errors, failure } = await (await runHere(mpi, 2, "shared")).ended;
      expect(errors).toEqual(["error: no such model"]);
      const { code: input, facts } = await failure();
      expect({ input, facts }).toEqual({ input: "model-not-found", facts: { path: "m" } });
      expect(code).toBe(2);
    });

    test("end when one of them is stopped by the system", async () => {
      const stopped = async (rank: number) => {
        const run = await runHere(mpi, 2, "sums");
        const pids = await Promise.all([pidOf(run, 0), pidOf(run, 1)]);
        process.kill(pids[rank] as number, "SIGSTOP");
        return run.ended;
      };
      for (const [rank, { code, errors, failure }] of (await Promise.all([stopped(0), stopped(1)])).entries()) {
        expect(errors).toEqual([expect.stringContaining(`rank ${rank} (${hostname()})`)]);
        expect(await failure()).toMatchObject({ ranks: [rank], facts: { ranks: [rank], seconds: LIMIT } });
        expect(code).not.toBe(0);
      }
    });

    test("end when one of them is killed", async () => {
      const run = await runHere(mpi, 2, "sums");
      await pidOf(run, 0);
      process.kill(await pidOf(run, 1), "SIGKILL");
      const { code, errors, stdout, stderr } = await run.ended;
      // The launcher notices first and reports it.
      expect(errors).toEqual([]);
      expect(stdout + stderr).toMatch(/signal 9/);
      expect(code).not.toBe(0);
    });

    test("end when one of them is alive but hangs", async () => {
      const { code, errors, failure } = await (await runHere(mpi, 2, "late")).ended;
      expect(errors).toEqual([expect.stringContaining(`rank 1 (${hostname()})`)]);
      const { ranks, code: input, facts } = await failure();
      expect({ ranks, input }).toEqual({ ranks: [1], input: undefined });
      expect(facts).toMatchObject({ ranks: [1], operation: "the sum of 10 numbers" });
      expect(facts.seconds).toBeGreaterThan(LIMIT);
      expect(code).toBe(1);
    });

    test("wait for one whose main thread is busy", async () => {
      const outcome = await (await runHere(mpi, 2, "busy")).ended;
      expect(outcome.stderr).toBe("");
      expect(outcome.code).toBe(0);
      expect(outcome.files).toEqual(["rank-0.json", "rank-1.json"]);
    });

    test("end when they start different operations", async () => {
      const { code, errors, failure } = await (await runHere(mpi, 2, "apart")).ended;
      expect(errors).toHaveLength(1);
      const { code: input, facts } = await failure();
      expect(input).toBe("ranks-mismatch");
      expect([facts.found, facts.expected].sort()).toEqual(["a barrier", "the sum of 10 numbers"]);
      expect(code).toBe(2);
    });

    test("all save and leave MPI when the launcher gets a signal", async () => {
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

    test("say what to install if the library cannot be loaded", async () => {
      const { code, errors, failure } = await (await runHere(mpi, 2, "all", { ALIGNPROP_MPI: "libnothing.so" })).ended;
      expect(errors).toEqual([expect.stringMatching(`libnothing.so.*apt install ${install}`)]);
      expect(await failure()).toMatchObject({
        code: "ranks-unavailable",
        facts: { processes: 2, reasons: [expect.stringMatching(/^libnothing\.so: /)] },
      });
      expect(code).toBe(2);
    });

    const other = [openMpi, mpich].find((one) => one !== mpi && one.mpirun !== undefined);
    test.skipIf(other === undefined)("refuse the library of another launcher", async () => {
      const { code, errors, failure } = await (await runHere(mpi, 2, "all", { ALIGNPROP_MPI: other?.library ?? "" }))
        .ended;
      expect(errors).toEqual([expect.stringContaining("ALIGNPROP_MPI=")]);
      expect(await failure()).toMatchObject({ code: "ranks-unavailable", facts: { expected: 2, found: 1 } });
      expect(code).toBe(2);
    });
  });
}
