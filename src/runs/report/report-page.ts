import { Html, html } from "./html.js";

/** The HTML page around a report. It has no scripts and loads no other file. */
export function reportPage(title: string, body: Html): string {
  return html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>${title}</title>
<style>${new Html(styles)}</style>
</head>
<body>
<main>
${body}
</main>
</body>
</html>
`.text;
}

const styles = `
:root {
  --paper: #fbfaf8; --card: #fff; --ink: #1d1c1a; --soft: #6d6a64; --rule: #e5e2dc; --train: #8a8f98; --eval: #d9480f; --held: #1c7ed6; --diverse: #2f9e44;
}
@media (prefers-color-scheme: dark) {
  :root { --paper: #161514; --card: #201f1d; --ink: #ecebe8; --soft: #a19d96; --rule: #36342f; --train: #868c96; --eval: #ff8c42; --held: #63b3ff; --diverse: #69db7c; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: clamp(1.5rem, 4.5vw, 2.25rem); line-height: 1.2; letter-spacing: -0.02em; margin: 0.25rem 0 1.5rem; text-wrap: balance; }
h2 { font-size: 1.2rem; margin: 0 0 0.5rem; }
h3 { font-size: 1rem; margin: 0 0 0.6rem; }
p { margin: 0 0 0.75rem; color: var(--soft); }
small, dt, figcaption, summary, .legend { font-size: 0.82rem; color: var(--soft); font-weight: 400; }
section { margin-top: 3rem; }
.kicker { color: var(--eval); font-weight: 600; margin: 0; }
.tiles { display: flex; flex-wrap: wrap; gap: 1px; margin: 0; background: var(--rule); border: 1px solid var(--rule); border-radius: 10px; overflow: hidden; }
.tiles div { flex: 1 0 auto; background: var(--card); padding: 0.7rem 0.9rem; }
dd { margin: 0; font-size: 1.1rem; font-weight: 600; font-variant-numeric: tabular-nums; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); gap: 1rem; }
article { background: var(--card); border: 1px solid var(--rule); border-radius: 10px; padding: 0.9rem; min-width: 0; }
.ends { display: grid; grid-template-columns: 1fr 1fr; gap: 0.6rem; margin-bottom: 0.6rem; }
figure { margin: 0; }
figcaption b { color: var(--ink); font-variant-numeric: tabular-nums; float: right; }
img { display: block; width: 100%; border-radius: 6px; image-rendering: pixelated; margin-bottom: 0.25rem; }
summary { cursor: pointer; }
.cards + .legend { margin-top: 0.75rem; }
.strip { display: grid; grid-template-columns: repeat(auto-fill, minmax(5.2rem, 1fr)); gap: 0.5rem; margin-top: 0.5rem; }
.chart { display: block; width: 100%; height: auto; font-size: 12px; }
.chart text { fill: var(--soft); font-variant-numeric: tabular-nums; }
.grid { stroke: var(--rule); }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; }
.line.train { stroke: var(--train); } .line.eval { stroke: var(--eval); }
.line.held { stroke: var(--held); } .line.diverse { stroke: var(--diverse); }
.mark { stroke: var(--soft); stroke-dasharray: 3 3; }
.verdict { color: var(--ink); max-width: 46rem; }
.chart + .legend + h3 { margin-top: 1.5rem; }
.band { opacity: 0.16; }
.band.train, circle.train { fill: var(--train); } .band.eval, circle.eval { fill: var(--eval); }
.band.held, circle.held { fill: var(--held); } .band.diverse, circle.diverse { fill: var(--diverse); }
.key { display: inline-block; width: 1.1em; height: 0.3em; border-radius: 2px; vertical-align: middle; margin: 0 0.35em 0 0; }
.key.train { background: var(--train); } .key.eval { background: var(--eval); margin-left: 0.9em; }
.key.held { background: var(--held); } .key.diverse { background: var(--diverse); }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); gap: 2rem; }
pre { background: var(--card); border: 1px solid var(--rule); border-radius: 10px; padding: 0.8rem 1rem; overflow-x: auto; font-size: 0.85rem; margin: 0 0 1rem; }
table { width: 100%; border-collapse: collapse; font-size: 0.88rem; }
th, td { text-align: left; vertical-align: top; padding: 0.35rem 0.5rem 0.35rem 0; border-top: 1px solid var(--rule); overflow-wrap: anywhere; }
th { font-weight: 400; color: var(--soft); width: 42%; }
td { font-variant-numeric: tabular-nums; }
`;
