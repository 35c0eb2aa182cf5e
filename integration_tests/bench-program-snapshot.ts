/**
 * Our own reader and encoder over a hypertable as a whole: one SELECT from the parent in one REPEATABLE READ transaction,
 * as readers do that know nothing of chunks. Arguments: the connector's configuration file, catalog file.
 */
import { readFile } from 'node:fs/promises';
import { writeSync } from 'node:fs';
import { escapeIdentifier } from 'pg';
import { Output } from '../src/airbyte/output.ts';
import { binaryEncoder, columnType } from '../src/column-types.ts';
import { loadSpec, parseConfig } from '../src/config.ts';
import { connect } from '../src/postgres/connection.ts';
import { bindPortal, executePortal } from '../src/postgres/hot-reader.ts';
import { RecordClock, RecordEncoder } from '../src/record.ts';
import { loadSource } from '../src/source-model.ts';
import type { ConfiguredCatalog } from './messages.ts';

const [configFile = '', catalogFile = ''] = process.argv.slice(2);
const config = parseConfig(JSON.parse(await readFile(configFile, 'utf8')), await loadSpec());
const catalog: ConfiguredCatalog = JSON.parse(await readFile(catalogFile, 'utf8'));

function writeOut(bytes: Uint8Array): void {
  for (let at = 0; at < bytes.length;) at += writeSync(1, bytes, at);
}

const client = await connect(config, 'benchmark');
const source = await loadSource(client, config);
const output = new Output(writeOut, false);
for (const { stream } of catalog.streams) {
  const relation = source.relations.find((it) => it.name === stream.name);
  if (relation === undefined) throw new Error(`no table ${stream.name}`);
  const columns = relation.columns.map(({ name, typeOid, typmod, dimensions }) => ({
    name,
    format:
      binaryEncoder(typeOid, dimensions) === undefined ? ('text' as const) : ('binary' as const),
    encode:
      binaryEncoder(typeOid, dimensions) ??
      columnType(typeOid, typmod, dimensions, source.types).encode,
  }));
  const name = { name: stream.name, namespace: relation.schema };
  const encoder = new RecordEncoder(name, columns, [], new RecordClock(0));
  const tally = output.written(name).rows;
  const list = columns.map((column) => escapeIdentifier(column.name)).join(', ');
  await client.query('BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY');
  const sql = `SELECT ${list} FROM ${escapeIdentifier(relation.name)}`;
  await bindPortal(
    client,
    'rows',
    sql,
    [],
    columns.map(({ format }) => format),
  );
  await executePortal(client, 'rows', (src, start, end) => {
    encoder.writeRow(output.buffer, src, start, end, null);
    output.recordWritten(tally);
    return undefined;
  });
  await client.query('COMMIT');
}
output.flush();
await client.end();
