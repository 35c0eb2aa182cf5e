/** Changes of compressed relations that are gone when their WAL is read. */
import { expect, test } from 'vitest';
import { createDatabase, requires } from './database.ts';
import { connectTo } from './scenario.ts';
import { changes, chunkNames, day, fillReadings, useColumnstore } from './ways.ts';

for (const everything of ['FOR ALL TABLES', 'FOR TABLES IN SCHEMA public, _timescaledb_internal']) {
  test(`way 17: with a publication ${everything}, compressed relations that are dropped before their WAL is read would stop the sync for good`, async (context) => {
    await using db = await createDatabase();
    await requires(context, db, 'rebuild_columnstore');
    await fillReadings(db, 3);
    await useColumnstore(db);
    await db.query(`CREATE PUBLICATION ${db.publication} ${everything}`);
    const connection = await connectTo(db, { streams: ['readings'] });
    (await connection.sync()).succeeded();
    const [, second, third] = await chunkNames(db);
    await db.query(`SELECT compress_chunk('${second}'); SELECT compress_chunk('${third}')`);
    await db.query(`SELECT decompress_chunk('${second}')`);
    await db.query(`CALL _timescaledb_functions.rebuild_columnstore('${third}')`);
    await db.query(`INSERT INTO readings VALUES (${day(1)}, 100, 'new')`);
    await db.query(changes(2, 'changed'));
    expect((await connection.sync()).succeeded().records()).toHaveLength(5);
    await connection.expectEqual('readings');
  });
}
