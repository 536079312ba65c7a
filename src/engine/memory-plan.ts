/** How a run holds its weights and residuals, as `memory.ts` plans it. */
export interface MemoryPlan {
  /** Copies of the programs (`replicas.ts`). The other numbers are for one of them, except `expectedBytes` and `mappedBytes`. */
  readonly replicas: number;
  /** Number of U-Net calls whose residuals may be saved at the same time. */
  readonly maxSavedCalls: number;
  /** True if other calls recompute their forward pass. */
  readonly recomputes: boolean;
  /** Bytes of the residuals of one call. */
  readonly residualBytes: number;
  /** Bytes of weights up to which a program packs them. Larger programs read them where the file is mapped. */
  readonly packUpTo: number;
  /** Estimated peak of the process, mapped files included. */
  readonly expectedBytes: number;
  /** The part of `expectedBytes` that is mapped files. The system may drop these pages and read them again. */
  readonly mappedBytes: number;
}
