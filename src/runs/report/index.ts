export { lineChart, type Series, ticks } from "./chart.js";
export { duration, format } from "./format.js";
export { Html, html } from "./html.js";
export { mixStrip } from "./image-strip.js";
export { monitorTitle, percent, stopText } from "./monitor-text.js";
export { writeReport } from "./report.js";
