/** The protocol's Bind message: which values a statement gets, and in which format its columns come. */

/** In which form the server sends a column's values. */
export type ColumnFormat = 'text' | 'binary';

/**
 * Bind of the unnamed statement. `pg` would ask for one format for all columns.
 * https://www.postgresql.org/docs/current/protocol-message-formats.html#PROTOCOL-MESSAGE-FORMATS-BIND
 */
export function bindMessage(
  portal: string,
  values: readonly (string | null)[],
  formats: readonly ColumnFormat[],
): Buffer {
  const parameters = values.flatMap((value) => {
    if (value === null) return [int32(-1)];
    const bytes = Buffer.from(value);
    return [int32(bytes.length), bytes];
  });
  const codes = formats.map((format) => (format === 'binary' ? 1 : 0));
  const names = Buffer.from(`${portal}\0\0`);
  // No format of a parameter is given: all are text.
  const body = [names, int16(0, values.length), ...parameters, int16(codes.length, ...codes)];
  const length = body.reduce((sum, part) => sum + part.length, 4);
  return Buffer.concat([Buffer.from('B'), int32(length), ...body]);
}

function int16(...values: readonly number[]): Buffer {
  const bytes = Buffer.alloc(values.length * 2);
  values.forEach((value, index) => bytes.writeInt16BE(value, index * 2));
  return bytes;
}

function int32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeInt32BE(value);
  return bytes;
}
