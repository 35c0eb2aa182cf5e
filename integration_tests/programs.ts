/** Other programs, run to their end. */
import { spawn } from 'node:child_process';

/** Takes what a person should see of a long piece of work. */
export type Log = (line: string) => void;

/** What a program prints. @throws Error with the end of what it said, when it fails. */
export function capture(
  program: string,
  args: readonly string[],
  env: NodeJS.ProcessEnv = {},
): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, ...env },
    });
    let output = '';
    let said = '';
    const say = (text: string): void => {
      said = (said + text).slice(-4000);
    };
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      output += text;
      say(text);
    });
    child.stderr.setEncoding('utf8').on('data', say);
    child.once('error', reject);
    child.once('close', (code) => {
      if (code === 0) resolve(output);
      else reject(new Error(`${program} ${args.slice(0, 12).join(' ')} failed:\n${said.trim()}`));
    });
  });
}
