/** Positions in the WAL. Text (`16/B374D848`) exists only in SQL and in the state document. */

declare const lsnBrand: unique symbol;

/** A byte position in the WAL, 64 bits unsigned. */
export type Lsn = bigint & { readonly [lsnBrand]: true };

/**
 * @param text PostgreSQL's pg_lsn output: two hexadecimal halves around a slash.
 * @throws Error when the text is no pg_lsn.
 */
export function parseLsn(text: string): Lsn {
  const match = /^([0-9A-Fa-f]{1,8})\/([0-9A-Fa-f]{1,8})$/.exec(text);
  if (match === null) throw new Error(`not a WAL position: ${text}`);
  return ((BigInt(`0x${match[1]}`) << 32n) | BigInt(`0x${match[2]}`)) as Lsn;
}

/** The one spelling that PostgreSQL prints: upper case, no padding. */
export function formatLsn(lsn: Lsn): string {
  return `${(lsn >> 32n).toString(16)}/${(lsn & 0xffffffffn).toString(16)}`.toUpperCase();
}

/** Reads the eight bytes that pgoutput sends. */
export function lsnFromBytes(bytes: Buffer, offset: number): Lsn {
  return bytes.readBigUInt64BE(offset) as Lsn;
}

/** A position `bytes` further on. */
export function advanceLsn(lsn: Lsn, bytes: number): Lsn {
  return (lsn + BigInt(bytes)) as Lsn;
}

export function maxLsn(a: Lsn, b: Lsn): Lsn {
  return a > b ? a : b;
}

export function minLsn(a: Lsn, b: Lsn): Lsn {
  return a < b ? a : b;
}
