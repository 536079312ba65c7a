import { describe, expect, test } from "vitest";
import { type Cluster, StopRequest, singleProcess } from "../cluster/index.js";
import type { StepMetrics, TrainEvent } from "./events.js";
import { RunJournal } from "./journal.js";
import { initialState, type TrainingState } from "./state.js";

function stateAt(step: number): TrainingState {
  return { ...initialState(Float32Array.of(step), { ema: { decay: null } }), step };
}
const metricsOf = (step: number) => ({ step }) as StepMetrics;

/** A journal whose log has the events, the cluster's barriers and failures, and the weights of each checkpoint, in order. */
function open({ ranks = 2, resumedStep = 0 }: { ranks?: number; resumedStep?: number } = {}) {
  const log: unknown[] = [];
  const cluster: Cluster = {
    ...singleProcess(),
    size: ranks,
    barrier: async (options) => {
      log.push(options?.patient ? "patient barrier" : "barrier");
    },
    fail: (error) => {
      log.push(`failed: ${(error as Error).message}`);
    },
  };
  const show = (event: TrainEvent) => {
    if (event.kind === "stepped") return `stepped ${event.metrics.step}`;
    if (event.kind === "checkpointed") return `checkpointed ${event.step}: ${event.files.get("weights")}`;
    return event.kind;
  };
  const journal = new RunJournal(
    (event) => {
      log.push(show(event));
    },
    cluster,
    ({ weights }) => new Map([["weights", new Uint8Array(weights)]]),
    resumedStep,
  );
  return { journal, cluster, log };
}

const lost = new Error("rank 1 is lost");

describe("saving", () => {
  test("tells the observer, and other ranks wait while it writes", async () => {
    const { journal, log } = open();
    await journal.save(stateAt(3));
    await journal.tell({ kind: "warned", message: "" });
    expect(log).toEqual(["checkpointed 3: 3", "patient barrier", "warned"]);
  });
});

describe("after an error", () => {
  test("a single process saves nothing", async () => {
    const { journal, log } = open({ ranks: 1 });
    journal.endStep(stateAt(1), metricsOf(1));
    await expect(journal.rescue(lost)).rejects.toBe(lost);
    expect(log).toEqual([]);
  });

  test("several ranks end first; then come the pending metrics, and then the last whole state", async () => {
    const { journal, log } = open();
    journal.endStep(stateAt(4), metricsOf(4));
    await expect(journal.rescue(lost)).rejects.toBe(lost);
    expect(log).toEqual(["failed: rank 1 is lost", "stepped 4", "checkpointed 4: 4"]);
  });

  test("metrics that the observer has are not told again", async () => {
    const { journal, log } = open();
    journal.endStep(stateAt(4), metricsOf(4));
    await journal.tellStep(metricsOf(4));
    await expect(journal.rescue(lost)).rejects.toBe(lost);
    expect(log.slice(1)).toEqual(["failed: rank 1 is lost", "checkpointed 4: 4"]);
  });

  test("a state that is saved already is not saved again", async () => {
    const saved = open();
    saved.journal.endStep(stateAt(4), metricsOf(4));
    await saved.journal.tellStep(metricsOf(4));
    await saved.journal.save(stateAt(4));
    await expect(saved.journal.rescue(lost)).rejects.toBe(lost);
    expect(saved.log).toEqual(["stepped 4", "checkpointed 4: 4", "patient barrier", "failed: rank 1 is lost"]);

    const resumed = open({ resumedStep: 4 });
    resumed.journal.beginStep(stateAt(4), { copy: false });
    await expect(resumed.journal.rescue(lost)).rejects.toBe(lost);
    expect(resumed.log).toEqual(["failed: rank 1 is lost"]);
  });

  test("a stop that the user asked for is not an error", async () => {
    const { journal, cluster, log } = open();
    journal.endStep(stateAt(2), metricsOf(2));
    cluster.stop();
    await journal.rescue(cluster.ended.reason);
    expect(cluster.ended.reason).toBeInstanceOf(StopRequest);
    expect(log.slice(1)).toEqual(["stepped 2", "checkpointed 2: 2"]);
  });
});

describe("an error within a step", () => {
  test("before the optimizer update saves the state of the last step", async () => {
    const { journal, log } = open();
    const state = stateAt(3);
    journal.beginStep(state, { copy: false });
    await expect(journal.rescue(lost)).rejects.toBe(lost);
    expect(log.slice(1)).toEqual(["checkpointed 3: 3"]);
  });

  test("during the update saves nothing, because the state is half changed", async () => {
    const { journal, log } = open();
    const state = stateAt(3);
    journal.beginStep(state, { copy: false });
    journal.beginUpdate(state);
    state.weights[0] = 99;
    await expect(journal.rescue(lost)).rejects.toBe(lost);
    expect(log).toEqual(["failed: rank 1 is lost"]);
  });

  test("between the updates of a rollout saves the copy of the last step", async () => {
    const { journal, log } = open();
    const state = stateAt(3);
    journal.beginStep(state, { copy: true });
    for (const weight of [98, 99]) {
      journal.beginUpdate(state);
      state.weights[0] = weight;
    }
    await expect(journal.rescue(lost)).rejects.toBe(lost);
    expect(log.slice(1)).toEqual(["checkpointed 3: 3"]);
  });

  test("after the step saves the new state", async () => {
    const { journal, log } = open();
    const state = stateAt(3);
    journal.beginStep(state, { copy: false });
    journal.beginUpdate(state);
    state.weights[0] = 99;
    state.step = 4;
    journal.endStep(state, metricsOf(4));
    await expect(journal.rescue(lost)).rejects.toBe(lost);
    expect(log.slice(1)).toEqual(["stepped 4", "checkpointed 4: 99"]);
  });
});
