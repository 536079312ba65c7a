/** A worker's part of a list, in the order of workers; the last ones may have less. */
export function shareOf<T>(items: readonly T[], { rank, size }: { readonly rank: number; readonly size: number }): T[] {
  const share = Math.ceil(items.length / size);
  return items.slice(rank * share, (rank + 1) * share);
}
