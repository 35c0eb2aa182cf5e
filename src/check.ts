import type { Config } from './config.ts';
export async function check(config: Config): Promise<{ failures: string[]; warnings: string[] }> { void config; return { failures: [], warnings: [] }; }
