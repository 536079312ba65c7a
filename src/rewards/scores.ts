/** The result of scoring a batch of images. */

/** Rewards by the label of each part of a combination, one per image; null if the part does not score the image's prompt. */
export type PartRewards = Readonly<Record<string, readonly (number | null)[]>>;

export interface Judged {
  /** One reward per image. */
  readonly rewards: Float32Array;
  /** Rewards of the parts, for a combination. */
  readonly parts?: PartRewards;
}

export interface JudgedPictures extends Judged {
  /** One loss per image. */
  readonly losses: Float32Array;
}

export interface JudgedLatents extends JudgedPictures {
  /** Gradient of the step's loss, the mean of `losses` over all samples of the step, with respect to the latents. */
  readonly dLatents: Float32Array;
}

/** Mean reward of each part over the images that it scored. A part that scored none is left out. */
export function partMeans(parts: PartRewards): Record<string, number> {
  return Object.fromEntries(
    Object.entries(parts).flatMap(([label, values]) => {
      const scored = values.filter((value) => value !== null);
      return scored.length === 0 ? [] : [[label, scored.reduce((sum, value) => sum + value, 0) / scored.length]];
    }),
  );
}

/** Concatenates the part rewards of several batches; undefined if none has parts. */
export function joinParts(batches: readonly (PartRewards | undefined)[]): PartRewards | undefined {
  const known = batches.filter((batch) => batch !== undefined);
  const labels = Object.keys(known[0] ?? {});
  if (labels.length === 0) return undefined;
  return Object.fromEntries(labels.map((label) => [label, known.flatMap((batch) => batch[label] ?? [])]));
}
