/** The body of a DataRow message. */
export function dataRow(cells: readonly (string | Buffer | null)[]): Buffer {
  const count = Buffer.alloc(2);
  count.writeUInt16BE(cells.length);
  return Buffer.concat([
    count,
    ...cells.flatMap((cell) => {
      const length = Buffer.alloc(4);
      const value = Buffer.from((cell ?? '') as string);
      length.writeInt32BE(cell === null ? -1 : value.length);
      return [length, value];
    }),
  ]);
}
