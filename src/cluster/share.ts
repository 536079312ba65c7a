/** The part of a list that belongs to one worker. Parts are contiguous and in the order of ranks; the last ones may be shorter. */
export function shareOf<T>(items: readonly T[], { rank, size }: { readonly rank: number; readonly size: number }): T[] {
  const share = Math.ceil(items.length / size);
  return items.slice(rank * share, (rank + 1) * share);
}
