/** What the command line chose, for every benchmark. */
export type BenchOptions = {
  readonly rowsPercent: number;
  readonly rounds: number;
  /** Only what the first goal needs. */
  readonly quick: boolean;
  readonly verify: boolean;
  /** For files; removed at the end. */
  readonly folder: string;
  /** Where the connector's CPU profiles go. */
  readonly profile: string | undefined;
  /** Whether a table or case was asked for. */
  readonly wants: (name: string) => boolean;
};
