export { type ErrorCode, type ErrorFact, type ErrorFacts, InputError } from "./input-error.js";
export { nearest } from "./nearest.js";
export { quote } from "./quote.js";
