/** The full state of an `Rng` as plain data, so that a resumed run continues with the same numbers. */
export interface RngState {
  readonly words: readonly [number, number, number, number];
  /** The second normal of the last Box-Muller pair, if it was not drawn yet. */
  readonly spare: number | null;
}

/**
 * A seeded random number generator: xoshiro128** (Blackman & Vigna 2018), seeded by SplitMix32 so that similar seeds
 * give uncorrelated streams. The same seed gives the same numbers on every machine.
 */
export class Rng {
  private words: [number, number, number, number];
  private spare: number | null = null;

  /** `stream` selects one of many independent sequences of the same seed, for example by the index of a sample. */
  constructor(seed: number, ...stream: number[]) {
    let state = seed >>> 0;
    const mix = () => {
      state = (state + 0x9e3779b9) >>> 0;
      let z = state;
      z = Math.imul(z ^ (z >>> 16), 0x85ebca6b);
      z = Math.imul(z ^ (z >>> 13), 0xc2b2ae35);
      return (z ^ (z >>> 16)) >>> 0;
    };
    for (const part of [Math.floor(seed / 2 ** 32), ...stream]) state = (mix() ^ (part >>> 0)) >>> 0;
    this.words = [mix(), mix(), mix(), mix() | 1];
  }

  static fromState(state: RngState): Rng {
    const rng = new Rng(0);
    rng.words = [...state.words];
    rng.spare = state.spare;
    return rng;
  }

  state(): RngState {
    return { words: [...this.words], spare: this.spare };
  }

  /** A uniform 32-bit unsigned integer. */
  uint32(): number {
    const s = this.words;
    const product = Math.imul(s[1], 5);
    const result = Math.imul((product << 7) | (product >>> 25), 9) >>> 0;
    const t = s[1] << 9;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = (s[3] << 11) | (s[3] >>> 21);
    return result;
  }

  /** Uniform in [0, 1), with 53 random bits. */
  uniform(): number {
    return ((this.uint32() >>> 5) * 2 ** 26 + (this.uint32() >>> 6)) / 2 ** 53;
  }

  /** A uniform integer from `low` to `high`, both included (like Python's `random.randint`). */
  integer(low: number, high: number): number {
    return low + Math.floor(this.uniform() * (high - low + 1));
  }

  /** A standard normal number (Box & Muller 1958). */
  normal(): number {
    if (this.spare !== null) {
      const value = this.spare;
      this.spare = null;
      return value;
    }
    const radius = Math.sqrt(-2 * Math.log(1 - this.uniform()));
    const angle = 2 * Math.PI * this.uniform();
    this.spare = radius * Math.sin(angle);
    return radius * Math.cos(angle);
  }

  normals(size: number): Float32Array {
    const out = new Float32Array(size);
    for (let i = 0; i < size; i++) out[i] = this.normal();
    return out;
  }

  /** @throws RangeError if there are no items. */
  choice<T>(items: readonly T[]): T {
    if (items.length === 0) throw new RangeError("rng: nothing to choose from");
    return items[this.integer(0, items.length - 1)] as T;
  }

  /** A shuffled copy (Fisher & Yates). */
  shuffle<T>(items: readonly T[]): T[] {
    const out = [...items];
    for (let i = out.length - 1; i > 0; i--) {
      const j = this.integer(0, i);
      [out[i], out[j]] = [out[j] as T, out[i] as T];
    }
    return out;
  }
}
