/**
 * The command `check`: what a sync needs, one requirement a function. Every one that fails is reported at once, each
 * with the SQL that mends it; only what others depend on ends the list. Nothing is written, and the number of queries is
 * fixed.
 */
import type { ClientBase } from 'pg';
import { publicationFacts } from './check-coverage.ts';
import { failure, type Finding, listed, tableLabel, warning } from './check-finding.ts';
import {
  coverage,
  insertsOnly,
  newChunks,
  ownersStatements,
  publicationExists,
  publishesChanges,
  publishesTooMuch,
} from './check-publication.ts';
import {
  extensionInstalled,
  failoverSlot,
  freeSlots,
  primary,
  replicationRole,
  type ServerFacts,
  serverFacts,
  slotHealth,
  standbyReads,
  supportedVersions,
  usableSlot,
  walLevel,
} from './check-server.ts';
import { guards, markers, timescaleFacts } from './check-timescale.ts';
import { type CdcConfig, settingNotes } from './cdc-setup.ts';
import { type Config, settingWarnings } from './config.ts';
import { relationWarnings, schemaWarnings } from './discover.ts';
import { limitFindings, publicationLimits } from './publication-limits.ts';
import { unreadable } from './select-privilege.ts';
import { loadSource, type SourceModel } from './source-model.ts';
import { asConnectorError } from './errors.ts';
import { connect } from './postgres/connection.ts';
import { slotHolder, slotUse } from './slot-care.ts';

/** Tries everything that a sync with this configuration needs. */
export async function check(config: Config): Promise<{
  readonly failures: readonly string[];
  readonly warnings: readonly string[];
  readonly notes: readonly string[];
}> {
  const findings: Finding[] = settingWarnings(config).map(({ sentence }) => warning(sentence));
  try {
    await connectAndCheck(config, findings);
  } catch (error) {
    findings.push(failure(asConnectorError(error, 'checking the connection').userMessage));
  }
  const sentences = (severity: Finding['severity']): readonly string[] =>
    findings.filter((finding) => finding.severity === severity).map(({ sentence }) => sentence);
  return {
    failures: sentences('failure'),
    warnings: sentences('warning'),
    notes: sentences('note'),
  };
}

/** Adds to the findings as it goes, so that an error on the way leaves what was found before. */
async function connectAndCheck(config: Config, findings: Finding[]): Promise<void> {
  const client = await connect(config, 'check');
  try {
    const server = await serverFacts(client);
    const cdc = config.replication.method === 'CDC' ? config.replication : null;
    const versions = supportedVersions(server);
    findings.push(...versions, ...extensionInstalled(config, server));
    if (cdc === null) findings.push(...standbyReads(server));
    else findings.push(...(await checkServer(client, config, cdc, server)));
    if (versions.length > 0) return;
    const source = await loadSource(client, config);
    findings.push(...(await streams(client, config, source)));
    findings.push(...(await unreadable(client, config, server, source)));
    if (cdc !== null) findings.push(...(await checkChanges(client, config, cdc, server, source)));
  } finally {
    await client.end().catch(() => undefined);
  }
}

async function checkServer(
  client: ClientBase,
  config: Config,
  cdc: CdcConfig,
  server: ServerFacts,
): Promise<readonly Finding[]> {
  const slot = await slotUse(client, cdc.slot);
  const holder = slot?.active === true ? await slotHolder(client, cdc.slot) : null;
  return [
    ...settingNotes(cdc).map((sentence) => warning(sentence)),
    ...primary(server),
    ...walLevel(server),
    ...replicationRole(server),
    ...freeSlots(server, slot),
    ...usableSlot(config, cdc, server, slot),
    ...failoverSlot(config, cdc, server, slot),
    ...slotHealth(cdc, slot, holder),
  ];
}

async function checkChanges(
  client: ClientBase,
  config: Config,
  cdc: CdcConfig,
  server: ServerFacts,
  source: SourceModel,
): Promise<readonly Finding[]> {
  const facts = await publicationFacts(client, config, cdc, source, server.mayCreate);
  const timescale = await timescaleFacts(client, source);
  const limits = await publicationLimits(
    client,
    [facts.name, facts.insertsName],
    [facts.status, facts.inserts],
  );
  return [
    ...publicationExists(config, server, facts),
    ...publishesChanges(source, facts),
    ...publishesTooMuch(facts),
    ...coverage(config, server, facts),
    ...ownersStatements(source, facts),
    ...insertsOnly(config, server, facts),
    ...limitFindings(source, limits),
    ...newChunks(config, facts),
    ...(timescale === null ? [] : [...markers(timescale), ...guards(timescale)]),
  ];
}

/** The schemas are there, and something in them can be read. */
async function streams(
  client: ClientBase,
  config: Config,
  source: SourceModel,
): Promise<readonly Finding[]> {
  // Without `check_privileges` the model holds what may not be read, too.
  const readable = source.relations.filter((it) => config.checkPrivileges || it.selectable);
  const hidden = source.relations.filter((it) => !readable.includes(it));
  const missing = await schemaWarnings(client, config, readable.length === 0);
  const findings = [
    ...missing.map((sentence) => failure(sentence)),
    ...source.relations
      .flatMap((relation) => relationWarnings(relation, source, config))
      .map((sentence) => warning(sentence)),
  ];
  if (hidden.length === 0 || readable.length === 0) return findings;
  const names = listed(hidden.map(tableLabel));
  return [
    ...findings,
    warning(`This role may not select from ${names}.`, 'GRANT SELECT ON the tables that you need.'),
  ];
}
