/** The part of a list that belongs to one rank. Parts are contiguous, in the order of ranks. The last may be shorter. */
export function shareOf<T>(items: readonly T[], { rank, size }: { readonly rank: number; readonly size: number }): T[] {
  const share = Math.ceil(items.length / size);
  return items.slice(rank * share, (rank + 1) * share);
}
