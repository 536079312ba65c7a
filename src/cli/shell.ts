/** A command for the user to paste into a shell, such as `npx alignprop train --resume 'my run'`. */
export function shellCommand(...args: readonly string[]): string {
  return ["npx alignprop", ...args.map(quoted)].join(" ");
}

/** POSIX quoting, only if the argument has a character that a shell may interpret. */
function quoted(argument: string): string {
  return /^[\w@%+:,./-]+$/.test(argument) ? argument : `'${argument.replaceAll("'", "'\\''")}'`;
}
