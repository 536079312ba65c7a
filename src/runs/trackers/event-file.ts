/**
 * TensorBoard's event files: TFRecords of Event messages (tensorflow/core/util/event.proto). A record is
 *
 *     length: uint64, masked CRC-32C of the length, Event, masked CRC-32C of the Event         (little-endian)
 *
 * Readers ignore an incomplete last record.
 */
import { BinaryWriter, WireType } from "@bufbuild/protobuf/wire";
import { crc32c } from "./crc32c.js";
import type { Png } from "./row.js";

export type EventContent =
  | { readonly fileVersion: "brain.Event:2" }
  | { readonly scalars: ReadonlyMap<string, number> }
  | { readonly values: readonly Uint8Array[] }
  /** Discards what was written before for this step and later ones, because a resumed run repeats them. */
  | { readonly restart: true };

/** A record of the file. `time` is in milliseconds since 1970. */
export function eventRecord(time: number, step: number, content: EventContent): Uint8Array {
  const event = new BinaryWriter();
  event.tag(1, WireType.Bit64).double(time / 1000);
  if (step !== 0) event.tag(2, WireType.Varint).int64(step);
  if ("fileVersion" in content) event.tag(3, WireType.LengthDelimited).string(content.fileVersion);
  else if ("restart" in content) {
    const SESSION_START = 1;
    const log = new BinaryWriter().tag(1, WireType.Varint).int32(SESSION_START).finish();
    event.tag(7, WireType.LengthDelimited).bytes(log);
  } else {
    const values = "scalars" in content ? [...content.scalars].map(scalarValue) : content.values;
    const summary = new BinaryWriter();
    for (const value of values) summary.tag(1, WireType.LengthDelimited).bytes(value);
    event.tag(5, WireType.LengthDelimited).bytes(summary.finish());
  }
  return framed(event.finish());
}

function framed(data: Uint8Array): Uint8Array {
  const record = Buffer.alloc(data.length + 16);
  record.writeBigUInt64LE(BigInt(data.length), 0);
  record.writeUInt32LE(masked(crc32c(record.subarray(0, 8))), 8);
  record.set(data, 12);
  record.writeUInt32LE(masked(crc32c(data)), data.length + 12);
  return record;
}

/** TFRecord stores checksums rotated and with an offset, because a CRC of data that contains CRCs is weak. */
function masked(crc: number): number {
  return (((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0;
}

function scalarValue([tag, value]: readonly [string, number]): Uint8Array {
  return new BinaryWriter().tag(1, WireType.LengthDelimited).string(tag).tag(2, WireType.Bit32).float(value).finish();
}

export interface TensorValue {
  readonly tag: string;
  /** The TensorBoard plugin that shows the tensor. */
  readonly plugin: "images" | "text";
  readonly shape: readonly number[];
  readonly strings: readonly (string | Uint8Array)[];
  /** Shown by the dashboard; the description is Markdown. TensorBoard uses those of the tag's first value. */
  readonly title?: string;
  readonly description?: string;
}

/** A Summary.Value with a tensor of strings. */
export function tensorValue({ tag, plugin, shape, strings, title = "", description = "" }: TensorValue): Uint8Array {
  const nested = WireType.LengthDelimited;
  const pluginData = new BinaryWriter().tag(1, nested).string(plugin).finish();
  const metadata = new BinaryWriter().tag(1, nested).bytes(pluginData);
  if (title !== "") metadata.tag(2, nested).string(title);
  if (description !== "") metadata.tag(3, nested).string(description);

  const dimensions = new BinaryWriter();
  for (const size of shape)
    dimensions.tag(2, nested).bytes(new BinaryWriter().tag(1, WireType.Varint).int64(size).finish());
  const DT_STRING = 7;
  const tensor = new BinaryWriter().tag(1, WireType.Varint).int32(DT_STRING).tag(2, nested).bytes(dimensions.finish());
  for (const item of strings)
    tensor.tag(8, nested).bytes(typeof item === "string" ? new TextEncoder().encode(item) : item);

  const value = new BinaryWriter().tag(1, nested).string(tag);
  return value.tag(8, nested).bytes(tensor.finish()).tag(9, nested).bytes(metadata.finish()).finish();
}

/** The tensor of the images plugin: width, height and the PNG, as strings. */
export function imageValue(
  tag: string,
  { bytes, width, height }: Png,
  labels: Pick<TensorValue, "title" | "description">,
) {
  return tensorValue({ tag, plugin: "images", shape: [3], strings: [String(width), String(height), bytes], ...labels });
}
