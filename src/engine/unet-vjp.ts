/**
 * The programs of the U-Net's vector-Jacobian product. If the run saves residuals, a saved call uses two programs: a forward
 * pass that also returns residuals, and a VJP that starts from them. A call that was not saved either runs both, one after the
 * other, or one joint program, which recomputes the forward pass inside. Both give the same numbers. The joint program is
 * faster, because no residuals leave it, but if it packs its weights, it holds them once more. So it is for small networks, for
 * mapped weights, and for runs that save no residuals.
 */
import { holdingOf, returnsMemory } from "../runtime/holding.js";
import type { Feeds, Program, Runtime, SavedOutputs } from "../runtime/runtime.js";
import type { HostTensor } from "../tensor/host.js";
import type { WeightSource } from "../weights/source.js";
import type { TrainingGraphs } from "./graphs.js";
import type { MemoryPlan } from "./memory-plan.js";

interface SplitPrograms {
  readonly forward: Program;
  readonly backward: Program;
  readonly residuals: readonly string[];
}

/** True if calls that were not saved run the joint program. */
export function recomputesJointly(
  { vjp }: Pick<TrainingGraphs, "vjp">,
  { maxSavedCalls, packUpTo }: Pick<MemoryPlan, "maxSavedCalls" | "packUpTo">,
): boolean {
  const holding = holdingOf(vjp, packUpTo);
  return maxSavedCalls === 0 || holding === "mapped" || !returnsMemory(vjp, holding);
}

export class UnetVjp {
  private joint: Promise<Program> | undefined;

  private constructor(
    private readonly splitPrograms: SplitPrograms | undefined,
    /** Undefined if calls that were not saved run the split programs. */
    private readonly compileJoint: (() => Promise<Program>) | undefined,
  ) {}

  static async compile(
    runtime: Runtime,
    weights: WeightSource,
    graphs: Pick<TrainingGraphs, "split" | "vjp">,
    maxSavedCalls: number,
  ): Promise<UnetVjp> {
    const compileJoint = recomputesJointly(graphs, { maxSavedCalls, packUpTo: runtime.packUpTo })
      ? () => runtime.compile(graphs.vjp, weights)
      : undefined;
    if (maxSavedCalls === 0) return new UnetVjp(undefined, compileJoint);
    const { forward, backward, residuals } = graphs.split;
    const [forwardProgram, backwardProgram] = await Promise.all([
      runtime.compile(forward, weights),
      runtime.compile(backward, weights),
    ]);
    return new UnetVjp({ forward: forwardProgram, backward: backwardProgram, residuals }, compileJoint);
  }

  /** The U-Net's outputs, and the residuals for its VJP. Requires a plan that saves residuals. */
  forward(feeds: Feeds): Promise<{ outputs: Record<string, HostTensor>; kept: SavedOutputs }> {
    const { forward, residuals } = this.split;
    return forward.runSaving(feeds, residuals);
  }

  /** The VJP, from saved residuals or from a recomputed forward pass. The first recomputed call compiles the joint program. */
  async backward(feeds: Feeds, residuals?: SavedOutputs): Promise<Record<string, HostTensor>> {
    if (residuals) return this.split.backward.run(feeds, residuals);
    if (this.compileJoint) {
      this.joint ??= this.compileJoint();
      return (await this.joint).run(feeds);
    }
    const { upstream: _, ...forwardFeeds } = feeds;
    const { kept } = await this.forward(forwardFeeds);
    try {
      return await this.split.backward.run(feeds, kept);
    } finally {
      await kept.release();
    }
  }

  async release(): Promise<void> {
    await this.splitPrograms?.forward.release();
    await this.splitPrograms?.backward.release();
    await (await this.joint)?.release();
  }

  private get split(): SplitPrograms {
    if (!this.splitPrograms) throw new TypeError("this run saves no residuals");
    return this.splitPrograms;
  }
}
