const STATE_WORDS = 624;
const SHIFT = 397;

const TWO_PI = Math.fround(2 * Math.PI);

/** PyTorch fills tensors of at least this size in blocks of this size. It draws smaller ones one by one in float64. */
const BLOCK = 16;

/**
 * Draws the float32 noise of `torch.randn(…, generator=torch.Generator("cpu").manual_seed(seed))`: the Mersenne Twister
 * MT19937 (Matsumoto & Nishimura 1998) and the Box-Muller transform (1958), in PyTorch's order. Integers and uniforms
 * are equal to PyTorch's. Normals may differ in the last bits, because PyTorch's logarithm, sine and cosine differ.
 */
export class TorchGenerator {
  private readonly state = new Uint32Array(STATE_WORDS);
  private used = STATE_WORDS;
  /** The second float64 normal of a pair, which the next draw returns. Blocks do not use it. */
  private spare: number | undefined;

  /** Uses the low 32 bits of the seed, as PyTorch does. */
  constructor(seed: number) {
    this.state[0] = seed % 2 ** 32;
    for (let i = 1; i < STATE_WORDS; i++) {
      const before = this.state[i - 1] as number;
      this.state[i] = Math.imul(before ^ (before >>> 30), 1812433253) + i;
    }
  }

  /** `size` standard normal elements, as `torch.randn` draws them for any shape with that many elements. */
  randn(size: number): Float32Array {
    const out = new Float32Array(size);
    if (size < BLOCK) {
      for (let i = 0; i < size; i++) out[i] = this.normal64();
      return out;
    }
    for (let i = 0; i < size; i++) out[i] = this.uniform24();
    for (let start = 0; start + BLOCK <= size; start += BLOCK) boxMuller(out.subarray(start, start + BLOCK));
    if (size % BLOCK !== 0) {
      // The last block overlaps the one before it and is drawn again.
      const last = out.subarray(size - BLOCK);
      for (let i = 0; i < BLOCK; i++) last[i] = this.uniform24();
      boxMuller(last);
    }
    return out;
  }

  uint32(): number {
    if (this.used === STATE_WORDS) this.twist();
    let y = this.state[this.used++] as number;
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  }

  private twist(): void {
    const { state } = this;
    for (let i = 0; i < STATE_WORDS; i++) {
      const y = ((state[i] as number) & 0x80000000) | ((state[(i + 1) % STATE_WORDS] as number) & 0x7fffffff);
      state[i] = (state[(i + SHIFT) % STATE_WORDS] as number) ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
    }
    this.used = 0;
  }

  /** Uniform in [0, 1), with the 24 bits of a float32. */
  private uniform24(): number {
    return (this.uint32() % 2 ** 24) / 2 ** 24;
  }

  /** Uniform in [0, 1), with the 53 bits of a float64. */
  private uniform53(): number {
    const high = this.uint32() % 2 ** 21;
    return (high * 2 ** 32 + this.uint32()) / 2 ** 53;
  }

  private normal64(): number {
    if (this.spare !== undefined) {
      const value = this.spare;
      this.spare = undefined;
      return value;
    }
    const angle = 2 * Math.PI * this.uniform53();
    const radius = Math.sqrt(-2 * Math.log1p(-this.uniform53()));
    this.spare = radius * Math.sin(angle);
    return radius * Math.cos(angle);
  }
}

/** 16 uniforms → 16 normals in place, rounded to float32 where PyTorch rounds. Elements i and i + 8 are a pair. */
function boxMuller(block: Float32Array): void {
  const half = BLOCK / 2;
  for (let i = 0; i < half; i++) {
    const radius = Math.fround(Math.sqrt(-2 * Math.fround(Math.log(1 - (block[i] as number)))));
    const angle = Math.fround(TWO_PI * (block[i + half] as number));
    block[i] = radius * Math.fround(Math.cos(angle));
    block[i + half] = radius * Math.fround(Math.sin(angle));
  }
}
