/** Cases of quantized operators. */
import { tensor } from "../onnx-model.js";
import { bytes, type Case, f, floats, i8, i32, scalar, u8 } from "./case.js";

export const QUANTIZED: Readonly<Record<string, readonly Case[]>> = {
  QuantizeLinear: [
    { given: [[3, 4], scalar(0.01), u8([128], [])], isStraightThrough: true },
    { given: [[3, 4], floats(0.01, 0.02, 0.03), i8([0, 3, -5])], attributes: { axis: 0 }, isStraightThrough: true },
    { given: [[3, 4], scalar(0.004)], isStraightThrough: true },
  ],
  DequantizeLinear: [
    { given: [u8(bytes(6, 31), [2, 3]), scalar(0.1), u8([20], [])] },
    { given: [i8(bytes(6, 31, -40), [2, 3]), floats(0.1, 0.2, 0.3)], attributes: { axis: 1 } },
    { given: [i32(5, -700, 90), scalar(0.5)] },
    {
      given: [i8(bytes(8, 31, -40), [4, 2]), tensor("", [0.1, 0.2, 0.3, 0.4], [2, 2], "float32")],
      attributes: { axis: 0, block_size: 2 },
      opset: 21,
    },
  ],
  "com.microsoft.QuantizeLinear": [{ given: [[3, 4], scalar(0.01), u8([128], [])], isStraightThrough: true }],
  "com.microsoft.DequantizeLinear": [{ given: [u8(bytes(6, 31), [2, 3]), scalar(0.1), u8([20], [])] }],
  DynamicQuantizeLinear: [{ given: [[3, 5]], outputs: 3, isStraightThrough: true }],
  QLinearMatMul: [
    {
      given: [
        u8(bytes(6, 31), [2, 3]),
        scalar(0.1),
        u8([20], []),
        u8(bytes(12, 17), [3, 4]),
        scalar(0.05),
        u8([9], []),
        scalar(0.9),
        u8([100], []),
      ],
    },
  ],
  QLinearConv: [
    {
      given: [
        u8(bytes(50, 31), [1, 2, 5, 5]),
        scalar(0.1),
        u8([20], []),
        i8(bytes(36, 17, -50), [2, 2, 3, 3]),
        floats(0.05, 0.02),
        i8([0, 0]),
        scalar(1.7),
        u8([100], []),
        i32(40, -90),
      ],
      attributes: { pads: [1, 1, 1, 1], strides: [2, 2] },
    },
  ],
  MatMulInteger: [{ given: [u8(bytes(6, 31), [2, 3]), u8(bytes(12, 17), [3, 4]), u8([20], []), u8([9], [])] }],
  ConvInteger: [{ given: [u8(bytes(25, 31), [1, 1, 5, 5]), u8(bytes(9, 17), [1, 1, 3, 3]), u8([20], [])] }],
  "com.microsoft.QLinearAdd": [
    {
      given: [
        u8(bytes(4, 31)),
        scalar(0.1),
        u8([20], []),
        u8(bytes(4, 17)),
        scalar(0.2),
        u8([3], []),
        scalar(0.13),
        u8([40], []),
      ],
    },
  ],
  "com.microsoft.QLinearMul": [
    {
      given: [
        u8(bytes(4, 31)),
        scalar(0.1),
        u8([20], []),
        u8(bytes(4, 17)),
        scalar(0.2),
        u8([3], []),
        scalar(0.53),
        u8([40], []),
      ],
    },
  ],
  "com.microsoft.QLinearSigmoid": [{ given: [u8(bytes(4, 31)), scalar(0.1), u8([20], []), scalar(0.01), u8([0], [])] }],
  "com.microsoft.QLinearLeakyRelu": [
    { given: [u8(bytes(4, 31)), scalar(0.1), u8([20], []), scalar(0.11), u8([30], [])], attributes: { alpha: f(0.2) } },
  ],
  "com.microsoft.QLinearGlobalAveragePool": [
    {
      given: [u8(bytes(24, 31), [1, 2, 3, 4]), scalar(0.1), u8([20], []), scalar(0.05), u8([30], [])],
      attributes: { channels_last: 0 },
    },
  ],
  "com.microsoft.QLinearSoftmax": [
    {
      given: [u8(bytes(6, 31), [2, 3]), scalar(0.02), u8([20], []), scalar(1 / 256), u8([0], [])],
      attributes: { axis: -1, opset: 13 },
    },
  ],
  "com.microsoft.QLinearAveragePool": [
    {
      given: [u8(bytes(25, 31), [1, 1, 5, 5]), scalar(0.1), u8([20], []), scalar(0.07), u8([30], [])],
      attributes: { kernel_shape: [2, 3], pads: [1, 0, 0, 1] },
    },
  ],
  "com.microsoft.QGemm": [
    {
      given: [
        u8(bytes(6, 31), [2, 3]),
        scalar(0.1),
        u8([20], []),
        i8(bytes(12, 17, -40), [4, 3]),
        scalar(0.05),
        i8([3], []),
        i32(40, -9, 3, 700),
        scalar(0.21),
        u8([100], []),
      ],
      attributes: { transB: 1, alpha: f(1) },
    },
    {
      given: [
        u8(bytes(6, 31), [2, 3]),
        scalar(0.1),
        u8([20], []),
        i8(bytes(12, 17, -40), [3, 4]),
        scalar(0.05),
        i8([3], []),
      ],
    },
  ],
  "com.microsoft.MatMulNBits": [
    {
      given: [[2, 40], u8(bytes(96, 31), [3, 2, 16]), floats(0.1, 0.2, 0.3, 0.05, 0.15, 0.25)],
      attributes: { K: 40, N: 3, bits: 4, block_size: 32 },
    },
    {
      given: [[2, 40], u8(bytes(96, 31), [3, 2, 16]), floats(0.1, 0.2, 0.3, 0.05, 0.15, 0.25), u8([0x73, 0x9a, 0x58])],
      attributes: { K: 40, N: 3, bits: 4, block_size: 32 },
    },
  ],
  "com.microsoft.QLinearConcat": [
    {
      given: [
        scalar(0.21),
        u8([7], []),
        u8(bytes(4, 31), [2, 2]),
        scalar(0.1),
        u8([20], []),
        u8(bytes(2, 17), [2, 1]),
        scalar(0.3),
        u8([3], []),
      ],
      attributes: { axis: 1 },
    },
  ],
};
