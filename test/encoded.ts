/** One value through an encoder, in the midst of other bytes. */
import { LineBuffer } from '../src/airbyte/line-buffer.ts';
import type { Encode } from '../src/column-types.ts';

/** @returns null where it has no JSON form, or there is no such encoder. */
export function encoded(encode: Encode | undefined, value: Buffer): string | null {
  const before = Buffer.from('123');
  const src = Buffer.concat([before, value, Buffer.from('456')]);
  const out = new LineBuffer(6 * value.length + 64);
  const done = encode?.(out, src, before.length, before.length + value.length);
  return done === true ? out.bytes.toString('utf8', 0, out.length) : null;
}
