/**
 * Tells the observer of a run what happens, and saves what a failing cluster would lose. Only rank 0 has an observer; while it
 * writes large files, the other ranks wait.
 */
import { type Cluster, StopRequest } from "../cluster/index.js";
import type { StepMetrics, TrainEvent, TrainObserver } from "./events.js";
import type { TrainingState } from "./state.js";

export class RunJournal {
  /** The state after the last whole step; undefined while a step changes it. */
  private safe: TrainingState | undefined;
  /** Metrics of the last step until the observer has them. */
  private pending: StepMetrics | undefined;
  private savedStep: number;

  constructor(
    private readonly observer: TrainObserver,
    private readonly cluster: Cluster,
    private readonly filesOf: (state: TrainingState) => Extract<TrainEvent, { kind: "checkpointed" }>["files"],
    resumedStep: number,
  ) {
    this.savedStep = resumedStep;
  }

  async tell(event: TrainEvent): Promise<void> {
    await this.observer(event);
  }

  /** For events with files that rank 0 needs a long time to write. */
  async tellPatiently(event: TrainEvent): Promise<void> {
    await this.observer(event);
    await this.cluster.barrier({ patient: true });
  }

  async save(state: TrainingState): Promise<void> {
    this.savedStep = state.step;
    await this.tellPatiently({ kind: "checkpointed", step: state.step, files: this.filesOf(state) });
  }

  /** `copy`: the coming step changes the state several times, so keep a copy of it. */
  beginStep(state: TrainingState, { copy }: { readonly copy: boolean }): void {
    this.safe = copy ? structuredClone(state) : state;
  }

  /** The state is about to be changed in place. A copy of it stays safe. */
  beginUpdate(state: TrainingState): void {
    if (this.safe === state) this.safe = undefined;
  }

  endStep(state: TrainingState, metrics: StepMetrics): void {
    this.safe = state;
    this.pending = metrics;
  }

  async tellStep(metrics: StepMetrics): Promise<void> {
    this.pending = undefined;
    await this.tell({ kind: "stepped", metrics });
  }

  /**
   * Ends a run after an error. With several ranks, the last whole step is saved first, whatever ended the run; a stop that the
   * user asked for is then no error.
   */
  async rescue(error: unknown): Promise<void> {
    const { cluster, safe } = this;
    if (cluster.size === 1) throw error;
    cluster.fail(error);
    if (this.pending) await this.tell({ kind: "stepped", metrics: this.pending });
    if (safe && safe.step > this.savedStep) {
      await this.tell({ kind: "checkpointed", step: safe.step, files: this.filesOf(safe) });
    }
    if (!(cluster.ended.reason instanceof StopRequest)) throw error;
  }
}
