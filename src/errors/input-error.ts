/**
 * What a user can correct: a file, a setting, an argument. The command line prints the message and exits with 2; `--json`
 * prints the code and the facts as well.
 */

/** Every kind of bad input. Codes are stable: programs may compare them. */
export type ErrorCode =
  // The command line
  | "usage" // options that do not go together, or an option with a wrong value
  // Settings, recipes and prompts
  | "recipe-not-found"
  | "recipe-malformed" // not YAML, or not a mapping
  | "setting-unknown"
  | "setting-invalid"
  | "settings-conflict" // each is valid, but they do not fit together
  | "prompts-invalid"
  // Files and folders
  | "file-not-found"
  | "file-unreadable" // permission, a folder in the place of a file, a broken link
  | "file-malformed" // damaged, cut short, or of another format than its name says
  | "file-unsupported" // well-formed, but uses something that is not supported
  | "file-too-large"
  | "path-unsafe" // would leave the folder that it belongs to
  | "output-exists"
  | "output-unwritable"
  // Models, weights and adapters
  | "model-not-found"
  | "model-incomplete"
  | "model-unsupported"
  | "model-mismatch" // its parts do not belong together
  | "config-invalid"
  | "tensor-missing"
  | "tensor-mismatch" // another type or shape than the model needs
  | "adapter-mismatch" // made for another model, or adapters that cannot be mixed
  | "adapter-unsupported"
  // The Hugging Face hub and other servers
  | "hub-id-invalid"
  | "hub-not-found"
  | "hub-denied" // a token is missing or not sufficient
  | "hub-unreachable"
  | "server-failed" // a server refuses, gives an unexpected answer or, if it is a tracker's, cannot be reached
  // Rewards and estimators
  | "onnx-unsupported"
  | "reward-invalid"
  | "reward-no-gradient"
  | "reward-needs-prompt"
  | "reward-failed" // the user's own program failed
  | "estimator-invalid"
  | "image-invalid"
  // Runs
  | "run-not-found"
  | "run-finished"
  | "run-incomplete" // it has no checkpoint or no evaluation yet
  | "run-mismatch" // resumed with other settings or weights
  | "checkpoint-damaged"
  | "not-finite" // a reward, a latent, a gradient or a weight is infinite or NaN
  // The machine and the ranks
  | "memory-too-small"
  | "device-unavailable"
  | "ranks-unavailable"
  | "ranks-mismatch";

/**
 * What was found, as data. Common keys: `path` (a file or folder), `setting` (`lora.rank`), `option` (`--steps`),
 * `tensor`, `line`, `found`, `expected`, `suggestion`.
 */
export type ErrorFacts = Readonly<Record<string, ErrorFact | undefined>>;
export type ErrorFact = string | number | boolean | null | readonly (string | number)[];

/**
 * Bad input. The message says what is wrong, where, what was found, and how to correct it.
 *
 * @example
 * throw new InputError("file-malformed", `${path}: ends after ${found} of ${expected} bytes. Download it again.`, {
 *   path, found, expected,
 * });
 */
export class InputError extends Error {
  override readonly name = "InputError";

  constructor(
    readonly code: ErrorCode,
    message: string,
    readonly facts: ErrorFacts = {},
    options?: ErrorOptions,
  ) {
    super(message, options);
  }
}
