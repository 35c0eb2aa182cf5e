/**
 * `pg-logical-replication` with its defaults, JSON.stringify and a write for each change, as a process of its own.
 * Ends at the first transaction that begins behind the LSN. Arguments: URL, slot, LSN, publications.
 */
import { LogicalReplicationService, PgoutputPlugin } from 'pg-logical-replication';

const [connectionString = '', slot = '', end = '', ...publicationNames] = process.argv.slice(2);

function toNumber(lsn: string): bigint {
  const [high = '', low = ''] = lsn.split('/');
  return (BigInt(`0x${high}`) << 32n) + BigInt(`0x${low}`);
}

const target = toNumber(end);
let stopped = false;
const service = new LogicalReplicationService({ connectionString });
const plugin = new PgoutputPlugin({ protoVersion: 1, publicationNames });
service.on('data', (_, message) => {
  if (stopped) return;
  if (message.tag === 'begin' && toNumber(message.commitLsn ?? end) >= target) {
    stopped = true;
    void service.stop();
  }
  if (message.tag !== 'insert') return;
  const record = { stream: message.relation.name, emitted_at: Date.now(), data: message.new };
  process.stdout.write(`${JSON.stringify({ type: 'RECORD', record })}\n`);
});
service.on('error', (error) => {
  throw error;
});
await service.subscribe(plugin, slot);
