export { filesToPush } from "./adapter-files.js";
export { writeModelCard } from "./model-card.js";
export { push, requireRepoId, requireToken } from "./push.js";
