/**
 * The programs of the U-Net's vector-Jacobian product. If the run saves residuals, they are two: a forward pass that also
 * returns residuals, and a VJP that starts from them. A call whose residuals were not saved runs both, one after the other. If
 * the run saves none, they are one program, which recomputes the forward pass and holds no residuals outside of it.
 */
import type { Feeds, Program, Runtime, SavedOutputs } from "../runtime/runtime.js";
import type { HostTensor } from "../tensor/host.js";
import type { WeightSource } from "../weights/source.js";
import type { TrainingGraphs } from "./graphs.js";

type Programs =
  | {
      readonly kind: "split";
      readonly forward: Program;
      readonly backward: Program;
      readonly residuals: readonly string[];
    }
  | { readonly kind: "joint"; readonly program: Program };

export class UnetVjp {
  private constructor(private readonly programs: Programs) {}

  static async compile(
    runtime: Runtime,
    weights: WeightSource,
    { split, vjp }: Pick<TrainingGraphs, "split" | "vjp">,
    { savesResiduals }: { readonly savesResiduals: boolean },
  ): Promise<UnetVjp> {
    if (!savesResiduals) return new UnetVjp({ kind: "joint", program: await runtime.compile(vjp, weights) });
    const [forward, backward] = await Promise.all([
      runtime.compile(split.forward, weights),
      runtime.compile(split.backward, weights),
    ]);
    return new UnetVjp({ kind: "split", forward, backward, residuals: split.residuals });
  }

  /** The U-Net's outputs, and the residuals for its VJP. Requires a plan that saves residuals. */
  forward(feeds: Feeds): Promise<{ outputs: Record<string, HostTensor>; kept: SavedOutputs }> {
    const { programs } = this;
    if (programs.kind === "joint") throw new TypeError("this run saves no residuals");
    return programs.forward.runSaving(feeds, programs.residuals);
  }

  /** The VJP, from saved residuals or from a recomputed forward pass. */
  async backward(feeds: Feeds, residuals?: SavedOutputs): Promise<Record<string, HostTensor>> {
    const { programs } = this;
    if (programs.kind === "joint") return programs.program.run(feeds);
    if (residuals) return programs.backward.run(feeds, residuals);
    const { upstream: _, ...forwardFeeds } = feeds;
    const { kept } = await this.forward(forwardFeeds);
    try {
      return await programs.backward.run(feeds, kept);
    } finally {
      await kept.release();
    }
  }

  async release(): Promise<void> {
    const { programs } = this;
    const all = programs.kind === "joint" ? [programs.program] : [programs.forward, programs.backward];
    for (const program of all) await program.release();
  }
}
