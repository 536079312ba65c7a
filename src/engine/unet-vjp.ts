/**
 * The programs of the U-Net's vector-Jacobian product. A call whose residuals were saved starts from them; for any other call,
 * the forward pass is recomputed. Both give the same gradient up to rounding.
 */
import type { Feeds, Program, Runtime, SavedOutputs } from "../runtime/runtime.js";
import type { HostTensor } from "../tensor/host.js";
import type { WeightSource } from "../weights/source.js";
import type { TrainingGraphs } from "./graphs.js";
import type { SavingPlan } from "./saving-plan.js";

/** A forward pass that saves residuals, and the VJP that starts from them. */
interface SplitPrograms {
  readonly forward: Program;
  readonly backward: Program;
  readonly residuals: readonly string[];
}

export class UnetVjp {
  private recomputing: Promise<Program> | undefined;

  private constructor(
    private readonly split: SplitPrograms | undefined,
    private readonly compileRecomputing: () => Promise<Program>,
  ) {}

  static async compile(
    runtime: Runtime,
    weights: WeightSource,
    { split, vjp }: Pick<TrainingGraphs, "split" | "vjp">,
    { maxSavedCalls, recomputes }: SavingPlan,
  ): Promise<UnetVjp> {
    const compileSplit = async () => {
      const [forward, backward] = await Promise.all([
        runtime.compile(split.forward, weights),
        runtime.compile(split.backward, weights),
      ]);
      return { forward, backward, residuals: split.residuals };
    };
    const programs = maxSavedCalls > 0 ? await compileSplit() : undefined;
    const unet = new UnetVjp(programs, () => runtime.compile(vjp, weights));
    if (recomputes) await unet.recompute();
    return unet;
  }

  /** Requires a plan that saves residuals. */
  forward(feeds: Feeds): Promise<{ outputs: Record<string, HostTensor>; kept: SavedOutputs }> {
    const { forward, residuals } = this.split as SplitPrograms;
    return forward.runSaving(feeds, residuals);
  }

  async backward(feeds: Feeds, residuals?: SavedOutputs): Promise<Record<string, HostTensor>> {
    if (residuals) return (this.split as SplitPrograms).backward.run(feeds, residuals);
    return (await this.recompute()).run(feeds);
  }

  async release(): Promise<void> {
    await this.split?.forward.release();
    await this.split?.backward.release();
    await (await this.recomputing)?.release();
  }

  /** Compiled when first used: a mask that is drawn late in a run may need it even if the plan did not expect it. */
  private recompute(): Promise<Program> {
    this.recomputing ??= this.compileRecomputing();
    return this.recomputing;
  }
}
