/** Shows how to use the trained weights in other programs. */
import { checkpointFolder, type RunRecord, stepFolder } from "../record/index.js";
import { type Html, html } from "./html.js";

export function usage({ path, settings, best, checkpoints }: RunRecord): Html {
  const step = best ?? checkpoints.at(-1);
  if (step === undefined) return html``;
  const adapter = checkpointFolder(path, step);
  const prompt = settings.prompts.template.replaceAll("{}", () => settings.prompts.eval[0] ?? "");
  const generate = html`<p>From the command line:</p>
<pre>alignprop generate --prompt ${shellQuoted(prompt)} --adapter ${shellQuoted(adapter)}</pre>`;
  if (settings.trainable === "unet") {
    return html`<section>
<h2>Use the U-Net</h2>
${generate}
<p>In diffusers:</p>
<pre>from diffusers import StableDiffusionPipeline, UNet2DConditionModel

unet = UNet2DConditionModel.from_pretrained(${JSON.stringify(adapter)}, subfolder="unet")
pipe = StableDiffusionPipeline.from_pretrained(${JSON.stringify(settings.model)}, unet=unet)</pre>
</section>`;
  }
  return html`<section>
<h2>Use the adapter</h2>
${generate}
<p>In diffusers:</p>
<pre>from diffusers import StableDiffusionPipeline

pipe = StableDiffusionPipeline.from_pretrained(${JSON.stringify(settings.model)})
pipe.load_lora_weights(${JSON.stringify(adapter)})
image = pipe(${JSON.stringify(prompt)}, num_inference_steps=${settings.sampling.steps}, guidance_scale=${settings.sampling.guidance_scale}).images[0]</pre>
<p>In ComfyUI and A1111: copy <code>${stepFolder(step)}/${settings.name}.kohya.safetensors</code> to the folder
<code>models/loras</code> (A1111: <code>models/Lora</code>) and load it like any LoRA, with strength 1.</p>
</section>`;
}

function shellQuoted(text: string): string {
  return /^[\w./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}
