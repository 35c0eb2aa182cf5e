/**
 * The obvious way to read a table in JavaScript, as a process of its own: a cursor's rows as objects, JSON.stringify and
 * a write for each. Arguments: URL, table.
 */
import { once } from 'node:events';
import pg from 'pg';
import QueryStream from 'pg-query-stream';

const [url, table = ''] = process.argv.slice(2);
// As the server prints it: an object of byte numbers is nobody's idea of a value.
pg.types.setTypeParser(pg.types.builtins.BYTEA, (text) => text);

const client = new pg.Client({ connectionString: url });
await client.connect();
await client.query("SET TimeZone = 'UTC'");
const rows = client.query(new QueryStream(`SELECT * FROM ${pg.escapeIdentifier(table)}`));
for await (const data of rows) {
  const record = { namespace: 'public', stream: table, emitted_at: Date.now(), data };
  const line = `${JSON.stringify({ type: 'RECORD', record })}\n`;
  if (!process.stdout.write(line)) await once(process.stdout, 'drain');
}
await client.end();
