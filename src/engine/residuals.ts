/** The residuals that a context holds at one time. Their number is bounded, whatever an estimator does. */
import type { SavedOutputs } from "../runtime/runtime.js";
import type { ForwardResult } from "./engine.js";

/** A U-Net call whose residuals are saved. */
export interface SavedCall {
  readonly step: number;
  /** Indices of the samples that the call had, in its order. */
  readonly samples: readonly number[];
  /** Latents of these samples, and perhaps of others that filled up the micro-batch. */
  readonly x: Float32Array;
  readonly residuals: SavedOutputs;
}

export class SavedResiduals {
  private readonly held = new Set<SavedCall>();
  /** Calls in progress that will save their residuals. */
  private pending = 0;

  constructor(private readonly limit: number) {}

  /** Number of further calls whose residuals may be saved. */
  get room(): number {
    return this.limit - this.held.size - this.pending;
  }

  /** Makes a U-Net call. It saves its residuals if that is wanted and there is room, also when several calls overlap. */
  async call(
    { step, samples, x, wanted = true }: Omit<SavedCall, "residuals"> & { readonly wanted?: boolean },
    forward: (save: boolean) => Promise<ForwardResult>,
  ): Promise<{ readonly output: Float32Array; readonly saved?: SavedCall }> {
    const save = wanted && this.room > 0;
    if (save) this.pending++;
    try {
      const { output, residuals } = await forward(save);
      if (!residuals) return { output };
      const saved = { step, samples, x, residuals };
      this.held.add(saved);
      return { output, saved };
    } finally {
      if (save) this.pending--;
    }
  }

  async release(call: SavedCall): Promise<void> {
    await call.residuals.release();
    this.held.delete(call);
  }

  async releaseAll(): Promise<void> {
    for (const call of this.held) await this.release(call);
  }
}
