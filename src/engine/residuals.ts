/** The residuals that a context holds at one time. Their number is bounded, whatever an estimator does. */
import type { SavedOutputs } from "../runtime/runtime.js";

/** How many residuals a replica saves. */
export interface SavingPlan {
  /** Number of U-Net calls whose residuals may be saved at the same time. */
  readonly maxSavedCalls: number;
  /** True if other calls recompute their forward pass. */
  readonly recomputes: boolean;
}

/** Residuals of one U-Net call, and the indices of the samples that the call had, in its order. */
export interface SavedCall {
  readonly step: number;
  readonly samples: readonly number[];
  readonly residuals: SavedOutputs;
}

export class SavedResiduals {
  private readonly held = new Set<SavedCall>();

  constructor(private readonly limit: number) {}

  /** Number of further calls whose residuals may be saved. */
  get room(): number {
    return this.limit - this.held.size;
  }

  add(call: SavedCall): SavedCall {
    this.held.add(call);
    return call;
  }

  async release(call: SavedCall): Promise<void> {
    if (this.held.delete(call)) await call.residuals.release();
  }

  async releaseAll(): Promise<void> {
    for (const call of this.held) await this.release(call);
  }
}
