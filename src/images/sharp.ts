/** The sharp library. It is loaded when it is first used, because loading it takes a good part of a command's start. */
export async function loadSharp() {
  return (await import("sharp")).default;
}
