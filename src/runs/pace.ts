/**
 * Predicts the time that a run still takes. Steps differ: truncation is random, and some steps evaluate. So the prediction is
 * the mean wall time per step since the start.
 */
export class Pace {
  readonly #start = performance.now();
  #steps = 0;
  #stepSeconds = 0;

  /** Adds a step that took `seconds` without its evaluation. */
  add(seconds: number): void {
    this.#steps++;
    this.#stepSeconds += seconds;
  }

  /** Seconds that `steps` more will take. */
  remaining(steps: number): number {
    const wall = (performance.now() - this.#start) / 1000;
    return (Math.max(wall, this.#stepSeconds) / Math.max(1, this.#steps)) * steps;
  }
}
