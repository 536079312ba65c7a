/**
 * A directed graph whose edges carry at most so much, and its minimum cut: the cheapest edges whose removal parts the sink
 * from the source. By maximum flow along shortest augmenting paths (Edmonds & Karp 1972).
 */
export class FlowNetwork {
  /** Edge e leads to `heads[e]` and still carries `room[e]`; e ^ 1 is the way back along it. */
  private readonly heads: number[] = [];
  private readonly room: number[] = [];
  private readonly edgesFrom: number[][] = [];

  vertex(): number {
    return this.edgesFrom.push([]) - 1;
  }

  edge(from: number, to: number, capacity: number): void {
    this.edgesFrom[from]?.push(this.heads.push(to) - 1);
    this.room.push(capacity);
    this.edgesFrom[to]?.push(this.heads.push(from) - 1);
    this.room.push(0);
  }

  /**
   * The vertices on the sink's side of a minimum cut; of several such cuts, the one nearest to the sink. The capacities
   * must not let an unbounded flow through.
   */
  sinkSide(source: number, sink: number): ReadonlySet<number> {
    for (;;) {
      const path = this.shortestPath(source, sink);
      if (!path) break;
      const flow = Math.min(...path.map((edge) => this.room[edge] as number));
      for (const edge of path) {
        this.room[edge] = (this.room[edge] as number) - flow;
        this.room[edge ^ 1] = (this.room[edge ^ 1] as number) + flow;
      }
    }
    // Whatever can still send something to the sink.
    const side = new Set([sink]);
    for (const to of side) {
      for (const edge of this.edgesFrom[to] ?? []) {
        if ((this.room[edge ^ 1] as number) > 0) side.add(this.heads[edge] as number);
      }
    }
    return side;
  }

  /** The edges of a shortest path with room on each. */
  private shortestPath(source: number, sink: number): number[] | undefined {
    const cameBy = new Map<number, number>([[source, -1]]);
    for (const [from] of cameBy) {
      for (const edge of this.edgesFrom[from] ?? []) {
        const to = this.heads[edge] as number;
        if (cameBy.has(to) || (this.room[edge] as number) <= 0) continue;
        cameBy.set(to, edge);
        if (to !== sink) continue;
        const path: number[] = [];
        for (let last = edge; last >= 0; last = cameBy.get(this.heads[last ^ 1] as number) as number) path.push(last);
        return path;
      }
    }
    return undefined;
  }
}
