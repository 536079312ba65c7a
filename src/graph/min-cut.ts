/**
 * A directed graph with edge capacities, and its minimum cut: the edges of least total capacity whose removal separates
 * the sink from the source. Computed as a maximum flow along shortest augmenting paths (Edmonds & Karp 1972).
 */
export class FlowNetwork {
  /** Edge e leads to `heads[e]` and has the residual capacity `residual[e]`. Edge e ^ 1 is its reverse. */
  private readonly heads: number[] = [];
  private readonly residual: number[] = [];
  private readonly edgesFrom: number[][] = [];

  /** Adds a vertex and returns its number. */
  vertex(): number {
    return this.edgesFrom.push([]) - 1;
  }

  edge(from: number, to: number, capacity: number): void {
    this.edgesFrom[from]?.push(this.heads.push(to) - 1);
    this.residual.push(capacity);
    this.edgesFrom[to]?.push(this.heads.push(from) - 1);
    this.residual.push(0);
  }

  /**
   * The vertices on the sink's side of a minimum cut. If there are several minimum cuts, it takes the one nearest to
   * the sink. No path from source to sink may have infinite capacity. Uses up the capacities: call it once.
   */
  sinkSide(source: number, sink: number): ReadonlySet<number> {
    for (;;) {
      const path = this.shortestPath(source, sink);
      if (!path) break;
      const flow = Math.min(...path.map((edge) => this.residual[edge] as number));
      for (const edge of path) {
        this.residual[edge] = (this.residual[edge] as number) - flow;
        this.residual[edge ^ 1] = (this.residual[edge ^ 1] as number) + flow;
      }
    }
    // The sink's side holds every vertex that can still send flow to the sink.
    const side = new Set([sink]);
    for (const to of side) {
      for (const edge of this.edgesFrom[to] ?? []) {
        if ((this.residual[edge ^ 1] as number) > 0) side.add(this.heads[edge] as number);
      }
    }
    return side;
  }

  /**
   * The edges of a shortest path with residual capacity, from the last edge to the first; undefined if there is none.
   */
  private shortestPath(source: number, sink: number): number[] | undefined {
    const reachedBy = new Map<number, number>([[source, -1]]);
    for (const [from] of reachedBy) {
      for (const edge of this.edgesFrom[from] ?? []) {
        const to = this.heads[edge] as number;
        if (reachedBy.has(to) || (this.residual[edge] as number) <= 0) continue;
        reachedBy.set(to, edge);
        if (to !== sink) continue;
        const path: number[] = [];
        for (let last = edge; last >= 0; last = reachedBy.get(this.heads[last ^ 1] as number) as number)
          path.push(last);
        return path;
      }
    }
    return undefined;
  }
}
