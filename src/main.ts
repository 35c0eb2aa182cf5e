#!/usr/bin/env node
/**
 * argv to one command: files in, exit code out. The only user of `process`.
 *
 * Nothing here has to run for correctness: a sync may be killed anywhere. Handlers only make an end readable.
 */
import { createReadStream } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { createInterface } from 'node:readline';
import { isatty } from 'node:tty';
import { Command } from 'commander';
import { Output } from './airbyte/output.ts';
import type { JsonValue } from './airbyte/protocol.ts';
import { check } from './check.ts';
import { type Config, loadSpec, parseConfig, readJsonFile } from './config.ts';
import { Counters, summaryLines } from './counters.ts';
import { discover } from './discover.ts';
import { asConnectorError, ConnectorError, withoutPasswords } from './errors.ts';
import { MetricsFile } from './metrics.ts';
import { connect } from './postgres/connection.ts';
import { ProgressBar } from './progress-bar.ts';
import { read } from './read.ts';
import { lastState, sampleCatalog, sampleConfig } from './samples.ts';
import { printSetup } from './setup-sql.ts';
import { OutputClosed, STDOUT, writeOut } from './stdout.ts';

const STDERR = 2;

type Options = {
  readonly config?: string;
  readonly catalog?: string;
  readonly state?: string;
  readonly debug?: boolean;
  readonly remove?: boolean;
  readonly metricsFile?: string;
};

/** What goes along with a read: its numbers, and who is shown them. */
type Company = {
  readonly counters: Counters;
  readonly bar: ProgressBar | undefined;
  file: MetricsFile | undefined;
};

async function configFrom(options: Options): Promise<Config> {
  const value = await readJsonFile(options.config ?? '', 'config');
  // As Azure's own libraries: clouds of their own have their own token service.
  return parseConfig(value, await loadSpec(), process.env['AZURE_AUTHORITY_HOST']);
}

async function runSpec(output: Output): Promise<void> {
  output.message({ type: 'SPEC', spec: await loadSpec() });
}

/** A failed check is an answer, not a failure of the command: exit code 0. */
async function runCheck(options: Options, output: Output): Promise<void> {
  let problems: readonly string[];
  try {
    const result = await check(await configFrom(options));
    for (const note of result.notes) output.log('INFO', note);
    for (const warning of result.warnings) output.log('WARN', warning);
    problems = result.failures;
  } catch (error) {
    const failure = asConnectorError(error, 'checking the connection');
    problems = [failure.userMessage];
  }
  output.message({
    type: 'CONNECTION_STATUS',
    connectionStatus:
      problems.length === 0
        ? { status: 'SUCCEEDED' }
        : { status: 'FAILED', message: problems.join('\n') },
  });
}

async function discovered(options: Options): ReturnType<typeof discover> {
  const config = await configFrom(options);
  const client = await connect(config, 'discover');
  try {
    return await discover(client, config);
  } finally {
    await client.end();
  }
}

async function runDiscover(options: Options, output: Output): Promise<void> {
  const { catalog, warnings } = await discovered(options);
  for (const warning of warnings) output.log('WARN', warning);
  output.message({ type: 'CATALOG', catalog });
}

async function runRead(options: Options, output: Output, company: Company): Promise<void> {
  const { counters } = company;
  if (options.metricsFile !== undefined) {
    const number = await version();
    company.file = await MetricsFile.open(options.metricsFile, output, (outcome) => ({
      counters,
      outcome,
      version: number,
      now: Date.now(),
      residentBytes: process.memoryUsage.rss(),
    }));
  }
  refuseSockets();
  const config = await configFrom(options);
  const catalog = await readJsonFile(options.catalog ?? '', 'catalog');
  const state =
    options.state === undefined || options.state === ''
      ? null
      : await readJsonFile(options.state, 'state');
  try {
    await read({ config, catalog, state }, output);
    summarise(output, counters);
  } catch (error) {
    // Nobody is left to be told.
    if (!(error instanceof OutputClosed)) summarise(output, counters);
    throw error;
  }
}

function summarise(output: Output, counters: Counters): void {
  if (output.counts.streams.length === 0) return;
  for (const line of summaryLines(output.counts, counters, Date.now())) output.log('INFO', line);
}

/** The end of a failed command: what happened, for the user, as a TRACE. */
function report(error: unknown, output: Output, doing: string): void {
  if (error instanceof OutputClosed) return;
  const failure = asConnectorError(error, doing);
  const cause = failure.cause instanceof Error ? failure.cause : failure;
  output.trace({
    type: 'ERROR',
    emitted_at: Date.now(),
    error: {
      message: failure.userMessage,
      internal_message: withoutPasswords(cause.message),
      ...(cause.stack === undefined ? {} : { stack_trace: withoutPasswords(cause.stack) }),
      failure_type: failure.kind,
      ...(failure.stream === undefined ? {} : { stream_descriptor: failure.stream }),
    },
  });
}

async function run(
  doing: string,
  options: Options,
  command: (options: Options, output: Output, company: Company) => Promise<void>,
): Promise<void> {
  const debug = options.debug === true || process.env['LOG_LEVEL']?.toLowerCase() === 'debug';
  const bar = command === runRead ? progressBar() : undefined;
  const company: Company = { counters: new Counters(bar), bar, file: undefined };
  const output = new Output(writeOut, debug, company.counters);
  bar?.start(() => output.counts);
  endReadably(output, doing, company);
  try {
    await command(options, output, company);
    output.flush();
    await company.file?.end(true);
    bar?.end(null);
  } catch (error) {
    process.exitCode = 1;
    await fail(error, output, doing, company);
  }
}

/** Says what happened to whoever is left: the terminal, the platform, the metrics file. */
async function fail(
  error: unknown,
  output: Output,
  doing: string,
  { bar, file }: Company,
): Promise<void> {
  sayFailure(error, doing, bar);
  try {
    output.flush();
    report(error, output, doing);
  } catch (second) {
    if (!(second instanceof OutputClosed)) throw second;
  } finally {
    await file?.end(false);
  }
}

/**
 * Only a terminal has one. Lines of records on the same terminal would tear it.
 * `process.stdout` is not touched: looking at it makes a pipe non-blocking, and every full one would cost a nap then.
 */
function progressBar(): ProgressBar | undefined {
  if (!isatty(STDERR)) return undefined;
  const { stderr, env } = process;
  return new ProgressBar({
    write: (text) => void stderr.write(text),
    columns: () => stderr.columns,
    colours: (env['NO_COLOR'] ?? '') === '' && env['TERM'] !== 'dumb',
    moving: !isatty(STDOUT) && env['TERM'] !== 'dumb',
  });
}

/** For a person whose terminal does not show the TRACE, because stdout goes elsewhere. */
function sayFailure(error: unknown, doing: string, bar: ProgressBar | undefined): void {
  if (error instanceof OutputClosed) {
    bar?.clear();
    return;
  }
  const { userMessage } = asConnectorError(error, doing);
  if (bar !== undefined) bar.end(userMessage);
  else if (isatty(STDERR) && !isatty(STDOUT)) process.stderr.write(`${userMessage}\n`);
}

async function* linesOf(files: readonly string[]): AsyncGenerator<string> {
  for (const file of files) yield* createInterface({ input: createReadStream(file) });
}

/** A command beyond the protocol: its answer is a file for people, its failure a sentence on stderr. */
async function runForPeople(doing: string, answer: () => Promise<string>): Promise<void> {
  try {
    writeOut(Buffer.from(await answer()));
  } catch (error) {
    process.exitCode = 1;
    if (error instanceof OutputClosed) return;
    process.stderr.write(`${asConnectorError(error, doing).userMessage}\n`);
  }
}

function asJson(value: JsonValue): string {
  return `${JSON.stringify(value, null, 2)}\n`;
}

/** On a stop signal: say so, then end as the signal would have ended us. */
function endReadably(output: Output, doing: string, company: Company): void {
  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    process.once(signal, () => {
      const stopped = new ConnectorError(`Stopped by ${signal} while ${doing}.`, {
        kind: 'transient_error',
        fix: 'The next sync goes on from the last STATE.',
      });
      void fail(stopped, output, doing, company).finally(() => {
        process.kill(process.pid, signal);
        // The first process of a container is not ended by its own signal.
        process.exit(1);
      });
    });
  }
}

/** Records over unix sockets are for connectors of Airbyte's registry. The other commands answer on stdout anyway. */
function refuseSockets(): void {
  if (process.env['DATA_CHANNEL_MEDIUM']?.toUpperCase() !== 'SOCKET') return;
  throw new ConnectorError(
    'DATA_CHANNEL_MEDIUM=SOCKET is not supported: this connector writes JSON lines to standard output, not to unix sockets.',
    { kind: 'config_error', fix: 'Set DATA_CHANNEL_MEDIUM to STDIO.' },
  );
}

async function version(): Promise<string> {
  const text = await readFile(new URL('../package.json', import.meta.url), 'utf8');
  const { version: number }: { version: string } = JSON.parse(text);
  return number;
}

const HELP = `
To begin:
  $ source-timescaledb sample-config > config.json     then put in your server
  $ source-timescaledb check --config config.json
  $ source-timescaledb sample-catalog --config config.json > catalog.json
  $ source-timescaledb read --config config.json --catalog catalog.json > sync.jsonl
  $ source-timescaledb last-state sync.jsonl > state.json
  $ source-timescaledb read --config config.json --catalog catalog.json --state state.json

The commands of the protocol print one JSON message a line on stdout, and nothing else. At a terminal, read shows on
stderr how far it is; NO_COLOR=1 takes the colours away. LOG_LEVEL=debug is the same as --debug.
Exit codes: 0, or 1 after a message that says what happened. A failed check is an answer: 0.
`;

const program = new Command('source-timescaledb')
  .description('Airbyte source connector for TimescaleDB and PostgreSQL')
  .version(await version())
  .showHelpAfterError()
  .helpCommand(false)
  .addHelpText('after', HELP);

const CONFIG = ['--config <file>', 'the configuration, as `spec` describes it'] as const;

program.commandsGroup('Commands of the Airbyte protocol:');
program
  .command('spec')
  .description('print the JSON schema of the configuration')
  .option('--debug', 'log more')
  .action((options: Options) =>
    run('printing the specification', options, async (_, output) => runSpec(output)),
  );
program
  .command('check')
  .description('try the configuration: everything that is missing, each with its fix')
  .requiredOption(...CONFIG)
  .option('--debug', 'log more')
  .action((options: Options) => run('checking the connection', options, runCheck));
program
  .command('discover')
  .description('list tables, hypertables and views as streams')
  .requiredOption(...CONFIG)
  .option('--debug', 'log more')
  .action((options: Options) => run('listing the streams', options, runDiscover));
program
  .command('read')
  .description('read the streams of a configured catalog: records and states on stdout')
  .requiredOption(...CONFIG)
  .requiredOption('--catalog <file>', 'the configured catalog')
  .option('--state <file>', 'the last state of the sync before')
  .option('--metrics-file <file>', 'write counters for Prometheus into this file, now and then')
  .option('--debug', 'log more')
  .action((options: Options) => run('reading', options, runRead));
program.commandsGroup('Commands beyond it:');
program
  .command('setup-sql')
  .description(
    'print the SQL that a DBA may run for the configuration; it changes nothing by itself',
  )
  .requiredOption(...CONFIG)
  .option('--remove', 'print the SQL that takes everything away again')
  .action((options: Options) =>
    runForPeople('printing the setup', async () =>
      printSetup(await configFrom(options), options.remove === true),
    ),
  );

program
  .command('sample-config')
  .description('print a configuration to fill in')
  .action(() => runForPeople('printing a sample', () => Promise.resolve(asJson(sampleConfig()))));
program
  .command('sample-catalog')
  .description('discover, and print a configured catalog for read')
  .argument('[streams...]', 'name or schema.name of the streams to read; all unless given')
  .requiredOption(...CONFIG)
  .action((streams: string[], options: Options) =>
    runForPeople('listing the streams', async () =>
      asJson(sampleCatalog((await discovered(options)).catalog, streams)),
    ),
  );
program
  .command('last-state')
  .description('print the state that the next read goes on from')
  .argument('<files...>', 'what read printed, the oldest first')
  .action((files: string[]) =>
    runForPeople('looking for the last state', async () => asJson(await lastState(linesOf(files)))),
  );

await program.parseAsync();
