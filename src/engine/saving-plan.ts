/** How many residuals a replica saves. */
export interface SavingPlan {
  /** Number of U-Net calls whose residuals may be saved at the same time. */
  readonly maxSavedCalls: number;
  /** True if other calls recompute their forward pass. */
  readonly recomputes: boolean;
}
