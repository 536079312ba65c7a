/** HTML text. The `html` template tag creates it and escapes all inserted values that are not `Html` themselves. */
export class Html {
  constructor(readonly text: string) {}
  toString(): string {
    return this.text;
  }
}

type Insertable = Html | string | number | readonly Html[];

/** html`<p>${"a < b"}</p>` → `<p>a &lt; b</p>` */
export function html(parts: TemplateStringsArray, ...values: readonly Insertable[]): Html {
  return new Html(parts.map((part, i) => (i === 0 ? part : insert(values[i - 1] as Insertable) + part)).join(""));
}

function insert(value: Insertable): string {
  if (value instanceof Html) return value.text;
  if (typeof value === "object") return value.map((item) => item.text).join("");
  return String(value).replace(/[&<>"']/g, (letter) => `&#${letter.charCodeAt(0)};`);
}
