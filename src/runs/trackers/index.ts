export { captionOf, stepRow } from "./row.js";
export { Trackers } from "./trackers.js";
