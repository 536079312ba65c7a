/**
 * The programs of the U-Net's vector-Jacobian product. A call whose residuals were kept starts its way back from them; of any
 * other, the forward pass is computed again. The gradients are the same but for rounding.
 */

import type { Sampler } from "../pipeline/sampler.js";
import type { Feeds, Kept, Program, Runtime } from "../runtime/runtime.js";
import type { HostTensor } from "../tensor/host.js";
import type { TrainingGraphs } from "./graphs.js";
import type { MemoryPlan } from "./memory.js";

/** Of calls whose residuals are kept: the forward pass that gives them, and the way back that begins with them. */
interface KeepingPrograms {
  readonly forward: Program;
  readonly backward: Program;
  readonly residuals: readonly string[];
}

export class UnetBackward {
  private recomputing: Promise<Program> | undefined;

  private constructor(
    private readonly keeping: KeepingPrograms | undefined,
    private readonly compileRecomputing: () => Promise<Program>,
  ) {}

  static async compile(
    runtime: Runtime,
    { pipeline: { weights } }: Sampler,
    { split, vjp }: TrainingGraphs,
    { keptAtOnce, recomputes }: MemoryPlan,
  ): Promise<UnetBackward> {
    const keeping = keptAtOnce > 0 && {
      forward: await runtime.compile(split.forward, weights),
      backward: await runtime.compile(split.backward, weights),
      residuals: split.residuals,
    };
    const unet = new UnetBackward(keeping || undefined, () => runtime.compile(vjp, weights));
    if (recomputes) await unet.recompute();
    return unet;
  }

  /** Only where the plan keeps any. */
  forwardKeeping(feeds: Feeds): Promise<{ outputs: Record<string, HostTensor>; kept: Kept }> {
    const { forward, residuals } = this.keeping as KeepingPrograms;
    return forward.runKeeping(feeds, residuals);
  }

  async backward(feeds: Feeds, kept?: Kept): Promise<Record<string, HostTensor>> {
    if (kept) return (this.keeping as KeepingPrograms).backward.run(feeds, kept);
    return (await this.recompute()).run(feeds);
  }

  async release(): Promise<void> {
    await this.keeping?.forward.release();
    await this.keeping?.backward.release();
    await (await this.recomputing)?.release();
  }

  /** Forward and backward in one. Compiled when it is first asked for: masks drawn late in a run may need it all the same. */
  private recompute(): Promise<Program> {
    this.recomputing ??= this.compileRecomputing();
    return this.recomputing;
  }
}
