export { writeModelCard } from "./model-card.js";
export { filesToPush, push, requireRepoId, requireToken } from "./push.js";
