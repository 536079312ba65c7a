/**
 * Errors that the user can correct: a bad file, setting or argument. The command line prints the message and exits with
 * 2; with `--json` it prints the code and the facts as well.
 */

/** Kinds of bad input. Codes are stable, so programs may compare them. */
export type ErrorCode =
  // The command line
  | "usage" // options that exclude each other, or an option with an invalid value
  // Settings, recipes and prompts
  | "recipe-not-found"
  | "recipe-malformed" // not YAML, or not a mapping
  | "setting-unknown"
  | "setting-invalid"
  | "settings-conflict" // each setting is valid, but the combination is not
  | "prompts-invalid"
  // Files and folders
  | "file-not-found"
  | "file-unreadable" // permission denied, a folder instead of a file, a loop of symbolic links
  | "file-malformed" // damaged, truncated, or in another format than its name says
  | "file-unsupported" // well-formed, but it uses a feature that is not supported
  | "file-too-large"
  | "path-unsafe" // leads out of the folder that it belongs to
  | "output-exists"
  | "output-unwritable"
  // Models, weights and adapters
  | "model-not-found"
  | "model-incomplete"
  | "model-unsupported"
  | "model-mismatch" // the parts of the model do not belong together
  | "config-invalid"
  | "tensor-missing"
  | "tensor-mismatch" // the type or shape is not the one that the model needs
  | "adapter-mismatch" // made for another model, or adapters that cannot be mixed
  | "adapter-unsupported"
  // The Hugging Face hub and other servers
  | "hub-id-invalid"
  | "hub-not-found"
  | "hub-denied" // the token is missing or lacks the permission
  | "hub-unreachable"
  | "server-failed" // a server refuses a request, gives an unexpected answer or, if it is a tracker's, cannot be reached
  // Rewards and estimators
  | "onnx-unsupported"
  | "reward-invalid"
  | "reward-no-gradient"
  | "reward-needs-prompt"
  | "reward-failed" // the user's reward program failed
  | "estimator-invalid"
  | "image-invalid"
  // Runs
  | "run-not-found"
  | "run-finished"
  | "run-incomplete" // the run has no checkpoint or no evaluation yet
  | "run-mismatch" // the run is resumed with other settings or weights
  | "checkpoint-damaged"
  | "not-finite" // a reward, latent, gradient or weight is infinite or NaN
  // The machine and the ranks
  | "memory-too-small"
  | "device-unavailable"
  | "ranks-unavailable"
  | "ranks-mismatch";

/**
 * Facts in the message, as data. Common keys: `path` (a file or folder), `setting` (`lora.rank`), `option` (`--steps`),
 * `tensor`, `line`, `found`, `expected`, `limit` (a maximum), `suggestion`, `with` (the other setting of a conflict).
 */
export type ErrorFacts = Readonly<Record<string, ErrorFact | undefined>>;
export type ErrorFact = string | number | boolean | null | readonly (string | number)[];

/**
 * An error that the user can correct. The message says what is wrong and where, what was found, and how to correct it.
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
