/** The values that a reward gives to a batch of images. */

/** The values of each part of a combination, by the part's label; null for a prompt that the part does not score. */
export type PartRewards = Readonly<Record<string, readonly (number | null)[]>>;

export interface BatchRewards {
  /** One per image. */
  readonly rewards: Float32Array;
  /** Only for a combination. */
  readonly parts?: PartRewards;
}

export interface BatchLosses extends BatchRewards {
  /** One per image. */
  readonly losses: Float32Array;
}

export interface BatchGradients extends BatchLosses {
  /** Gradient of the mean loss over the global batch, same length as the latents. */
  readonly dLatents: Float32Array;
}

/** The mean of each part over the images that it scored. A part that scored none is left out. */
export function partMeans(parts: PartRewards): Record<string, number> {
  return Object.fromEntries(
    Object.entries(parts).flatMap(([label, values]) => {
      const scored = values.filter((value) => value !== null);
      return scored.length === 0 ? [] : [[label, scored.reduce((sum, value) => sum + value, 0) / scored.length]];
    }),
  );
}

/** Concatenates the parts of several batches. */
export function joinParts(batches: readonly (PartRewards | undefined)[]): PartRewards | undefined {
  const known = batches.filter((batch) => batch !== undefined);
  const labels = Object.keys(known[0] ?? {});
  if (labels.length === 0) return undefined;
  return Object.fromEntries(labels.map((label) => [label, known.flatMap((batch) => batch[label] ?? [])]));
}
