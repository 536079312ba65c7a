/** What a reward gives for a batch. */

/** What each part of a combination makes of each picture, by the part's label; null where it does not judge the prompt. */
export type PartRewards = Readonly<Record<string, readonly (number | null)[]>>;

export interface Judged {
  /** Of each picture. */
  readonly rewards: Float32Array;
  /** Where the reward is a combination. */
  readonly parts?: PartRewards;
}

export interface JudgedPictures extends Judged {
  readonly losses: Float32Array;
}

export interface JudgedLatents extends JudgedPictures {
  /** The gradient of the losses' sum over all samples of the update, like the latents. */
  readonly dLatents: Float32Array;
}

/** The mean of each part over the pictures that it judged; a part that judged none is left out. */
export function partMeans(parts: PartRewards): Record<string, number> {
  return Object.fromEntries(
    Object.entries(parts).flatMap(([label, values]) => {
      const judged = values.filter((value) => value !== null);
      return judged.length === 0 ? [] : [[label, judged.reduce((sum, value) => sum + value, 0) / judged.length]];
    }),
  );
}

/** The parts of several batches of pictures as those of one. */
export function joinParts(batches: readonly (PartRewards | undefined)[]): PartRewards | undefined {
  const known = batches.filter((batch) => batch !== undefined);
  const labels = Object.keys(known[0] ?? {});
  if (labels.length === 0) return undefined;
  return Object.fromEntries(labels.map((label) => [label, known.flatMap((batch) => batch[label] ?? [])]));
}
