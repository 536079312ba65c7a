/**
 * A reward of your own: images in the colors of a brand. Each pixel counts by its squared distance to the nearest color of the
 * palette, and the reward is minus the mean distance: 0 if every pixel has one of the colors, about -1 at worst.
 *
 *     alignprop train --reward ./palette.js
 *     alignprop train --set 'reward={ name: module, file: ./palette.js, options: { colours: ["#0b3d91", "#fc3d21"] } }'
 *
 * @param {import("alignprop").RewardToolkit} toolkit
 * @param {{ colours?: string[], softness?: number }} options
 */
export default function palette(
  { defineReward, ops },
  { colours = ["#1d3557", "#e63946", "#f1faee"], softness = 0.02 },
) {
  const palette = colours.map(rgb);
  return defineReward({
    name: "palette",
    build(images) {
      // images [b, 3, h, w] in 0 … 1 → for each color, the squared distance of every pixel [b, 1, h, w]
      const distances = palette.map((colour) => {
        const difference = ops.sub(images, ops.constant(colour, [1, 3, 1, 1]));
        return ops.mean(ops.mul(difference, difference), 1, { keepDims: true });
      });
      // A soft minimum over the colors. With a hard one, a pixel has no gradient towards any color but the nearest.
      const closeness = distances.map((distance) => ops.exp(ops.div(ops.neg(distance), softness)));
      const sum = closeness.reduce((total, one) => ops.add(total, one));
      const nearest = ops.mul(ops.log(ops.add(sum, 1e-12)), softness);
      return ops.mean(nearest, [1, 2, 3]); // one number per image
    },
  });
}

/** "#e63946" → [0.90, 0.22, 0.27] */
function rgb(hex) {
  const match = /^#([0-9a-f]{2})([0-9a-f]{2})([0-9a-f]{2})$/i.exec(hex);
  if (!match) throw new Error(`colours: ${JSON.stringify(hex)} is not a color such as "#1d3557"`);
  return match.slice(1).map((two) => Number.parseInt(two, 16) / 255);
}
