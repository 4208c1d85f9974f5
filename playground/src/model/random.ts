/** Seeded random numbers: the same draws for the same seed, in every browser. */

export class Random {
  private a: number;
  private b: number;
  private c: number;
  private count = 1;
  private spare: number | null = null;

  constructor(seed: number) {
    this.a = 0;
    this.b = seed;
    this.c = 0x9e3779b9;
    for (let n = 0; n < 15; n++) this.bits();
  }

  /** A whole number from 0 to 2^32 - 1 (sfc32 of Doty-Humphrey's PractRand). */
  private bits(): number {
    const sum = (((this.a + this.b) | 0) + this.count) | 0;
    this.count = (this.count + 1) | 0;
    this.a = this.b ^ (this.b >>> 9);
    this.b = (this.c + (this.c << 3)) | 0;
    this.c = (((this.c << 21) | (this.c >>> 11)) + sum) | 0;
    return sum >>> 0;
  }

  /** Uniform on (0, 1). */
  uniform(): number {
    return (this.bits() + 0.5) / 4294967296;
  }

  /** A whole number from 0 to count - 1. */
  below(count: number): number {
    return Math.floor(this.uniform() * count);
  }

  /** Standard normal, by Box and Muller. */
  normal(): number {
    if (this.spare !== null) {
      const value = this.spare;
      this.spare = null;
      return value;
    }
    const radius = Math.sqrt(-2 * Math.log(this.uniform()));
    const angle = 2 * Math.PI * this.uniform();
    this.spare = radius * Math.sin(angle);
    return radius * Math.cos(angle);
  }

  normals(count: number): Float64Array {
    return Float64Array.from({ length: count }, () => this.normal());
  }
}
