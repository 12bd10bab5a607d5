// The conformance behaviour in AssemblyScript, without its runtime: docs/plugin-abi.md is all that
// it knows.
//
// Memory above the data is one stack: arguments first, the output behind them. Each export puts the
// top back to the bottom, so that the next call's arguments lie where these did; what an export
// returned stays readable until then.

const MSB1: u32 = 0x3142534d;
const MSV1: u32 = 0x3156534d;
const KNOWN_FLAGS: u16 = 7;

const DROP: u8 = 1;
const REPLACE_VALUE: u8 = 2;
const REPLACE_RECORD: u8 = 3;
const EMIT: u8 = 4;
const DEAD_LETTER: u8 = 5;
const REJECT: u8 = 6;

const NULL: i32 = -1;
const SAME: i32 = -2;

const BATCH_HEADER: u32 = 24;
const RECORD_HEAD: u32 = 32;
const OUTPUT_HEADER: u32 = 16;
const OUT_RECORD: u32 = 24;

const MODES: StaticArray<string> = [
  "keep", "drop-every", "upper", "null", "swap", "header", "stamp",
  "twice", "none", "route", "dead", "reject", "fail",
];

let top: usize = 0;
let mode: string = "";
let every: i64 = 0;
let outputs: u32 = 1;

const manifestArea: usize = memory.data(24, 8);
const answerArea: usize = memory.data(12, 4);

function bottom(): usize {
  return (__heap_base + 7) & ~7;
}

// Room at the top of the stack. A guest without memory left has nothing to say.
function room(bytes: u32): usize {
  if (top == 0) top = bottom();
  const at = top;
  const end = <u64>at + <u64>bytes;
  const size = <u64>memory.size() << 16;
  if (end > size && memory.grow(<i32>((end - size + 65535) >> 16)) < 0) unreachable();
  top = <usize>end;
  return at;
}

export function cabi_realloc(old: usize, oldBytes: u32, align: u32, bytes: u32): usize {
  if (top == 0) top = bottom();
  top = (top + 7) & ~7;
  const at = room(bytes);
  if (oldBytes > 0) memory.copy(at, old, min(oldBytes, bytes));
  return at;
}

// Strings here are UTF-16; all of ours are ASCII.
function put(text: string): void {
  const at = room(text.length);
  for (let index = 0; index < text.length; index++) {
    store<u8>(at + index, <u8>text.charCodeAt(index));
  }
}

function is(at: usize, bytes: u32, text: string): bool {
  if (bytes != <u32>text.length) return false;
  for (let index: u32 = 0; index < bytes; index++) {
    if (load<u8>(at + index) != <u8>text.charCodeAt(index)) return false;
  }
  return true;
}

export function manifest(): usize {
  top = bottom();
  const name = top;
  put("conformance");
  const version = top;
  put("1.0.0");
  store<usize>(manifestArea, name);
  store<u32>(manifestArea, 11, 4);
  store<usize>(manifestArea, version, 8);
  store<u32>(manifestArea, 5, 12);
  store<u16>(manifestArea, 1, 16);
  store<u16>(manifestArea, 1, 18);
  store<u8>(manifestArea, 1, 20);
  store<u8>(manifestArea, 3, 21);
  store<u8>(manifestArea, 127, 22);
  top = bottom();
  return manifestArea;
}

function answer(isError: u8, at: usize, bytes: u32): usize {
  store<u8>(answerArea, isError);
  store<usize>(answerArea, at, 4);
  store<u32>(answerArea, bytes, 8);
  top = bottom();
  return answerArea;
}

function error(text: string): usize {
  const at = top;
  put(text);
  return answer(1, at, text.length);
}

export function configure(
  abi: u32,
  options: usize,
  optionCount: u32,
  input: usize,
  inputBytes: u32,
  outputNames: usize,
  outputCount: u32,
): usize {
  if (abi != 1) return error("this layout version is not known");
  mode = "";
  every = 0;
  outputs = outputCount;
  for (let index: u32 = 0; index < optionCount; index++) {
    const option = options + index * 16;
    const name = load<usize>(option);
    const nameBytes = load<u32>(option, 4);
    const value = load<usize>(option, 8);
    const valueBytes = load<u32>(option, 12);
    if (is(name, nameBytes, "mode")) {
      for (let known = 0; known < MODES.length; known++) {
        if (is(value, valueBytes, MODES[known])) mode = MODES[known];
      }
    }
    if (is(name, nameBytes, "n")) {
      for (let at: u32 = 0; at < valueBytes; at++) {
        every = every * 10 + <i64>(load<u8>(value + at) - 48);
      }
    }
  }
  if (mode.length == 0) return error("unknown mode");
  if (mode == "drop-every" && every <= 0) return error("the option n is no number above 0");
  return answer(0, 0, 0);
}

function bytesOf(length: i32): u32 {
  return length < 0 ? 0 : <u32>length;
}

function putBytes(from: usize, bytes: u32): void {
  memory.copy(room(bytes), from, bytes);
}

function putRecord(
  timestamp: i64,
  keyBytes: i32,
  valueBytes: i32,
  headersBytes: i32,
  headerCount: u16,
  output: u8,
): void {
  const at = room(OUT_RECORD);
  store<i64>(at, timestamp);
  store<i32>(at, keyBytes, 8);
  store<i32>(at, valueBytes, 12);
  store<i32>(at, headersBytes, 16);
  store<u16>(at, headerCount, 20);
  store<u8>(at, output, 22);
  store<u8>(at, 0, 23);
}

function putReason(offset: i64): void {
  put("offset ");
  let scale: i64 = 1;
  while (offset / scale >= 10) scale *= 10;
  for (; scale > 0; scale /= 10) store<u8>(room(1), <u8>(48 + (offset / scale) % 10));
}

// Writes the body of a record's verdict, and the verdict at `verdict`, which holds zeros: keep.
function judge(record: usize, verdict: usize): void {
  const offset = load<i64>(record);
  const keyBytes = load<i32>(record, 16);
  const valueBytes = load<i32>(record, 20);
  const headersBytes = load<u32>(record, 24);
  const key = record + RECORD_HEAD;
  const value = key + bytesOf(keyBytes);
  const headers = value + bytesOf(valueBytes);
  const before = top;
  let op: u8 = 0;
  if (mode == "drop-every") {
    if (offset % every == 0) op = DROP;
  } else if (mode == "upper") {
    if (valueBytes != NULL) {
      op = REPLACE_VALUE;
      const to = room(<u32>valueBytes);
      for (let at = 0; at < valueBytes; at++) {
        const byte = load<u8>(value + at);
        store<u8>(to + at, byte >= 97 && byte <= 122 ? byte - 32 : byte);
      }
    }
  } else if (mode == "null") {
    op = REPLACE_VALUE;
    store<u16>(verdict, 1, 2);
  } else if (mode == "swap") {
    op = REPLACE_RECORD;
    putRecord(-1, valueBytes, keyBytes, SAME, 0, 0);
    putBytes(value, bytesOf(valueBytes));
    putBytes(key, bytesOf(keyBytes));
  } else if (mode == "header") {
    op = REPLACE_RECORD;
    putRecord(-1, SAME, SAME, headersBytes + 20, <u16>(load<u32>(record, 28) + 1), 0);
    putBytes(headers, headersBytes);
    const lengths = room(8);
    store<u32>(lengths, 11);
    store<i32>(lengths, 1, 4);
    put("conformance1");
  } else if (mode == "stamp") {
    op = REPLACE_RECORD;
    putRecord(offset, SAME, SAME, SAME, 0, 0);
  } else if (mode == "twice") {
    op = EMIT;
    store<u16>(verdict, 2, 2);
    putRecord(-1, SAME, SAME, SAME, 0, 0);
    putRecord(-1, SAME, SAME, SAME, 0, <u8>(outputs - 1));
  } else if (mode == "none") {
    op = EMIT;
  } else if (mode == "route") {
    store<u8>(verdict, <u8>(offset % <i64>outputs), 1);
  } else if (mode == "dead" || mode == "reject") {
    op = mode == "dead" ? DEAD_LETTER : REJECT;
    putReason(offset);
  }
  store<u8>(verdict, op);
  store<u32>(verdict, <u32>(top - before), 4);
}

export function apply(batch: usize, bytes: u32): usize {
  if (bytes < BATCH_HEADER || load<u32>(batch) != MSB1 || load<u32>(batch, 12) != bytes) {
    return error("this is no batch");
  }
  if (load<u16>(batch, 4) != 1 || load<u32>(batch, 20) != 0) {
    return error("this layout version is not known");
  }
  if ((load<u16>(batch, 6) & ~KNOWN_FLAGS) != 0) return error("there are unknown flags");
  if (mode == "fail") return error("asked to fail");
  const count = load<u32>(batch, 8);
  top = (top + 7) & ~7;
  const output = room(OUTPUT_HEADER);
  const verdicts = room(count * 8);
  memory.fill(verdicts, 0, count * 8);
  const bodies = top;
  let record = batch + BATCH_HEADER;
  for (let index: u32 = 0; index < count; index++) {
    judge(record, verdicts + index * 8);
    const end = record + RECORD_HEAD + bytesOf(load<i32>(record, 16)) +
      bytesOf(load<i32>(record, 20)) + load<u32>(record, 24);
    record = (end + 7) & ~7;
  }
  store<u32>(output, MSV1);
  store<u16>(output, 1, 4);
  store<u16>(output, 0, 6);
  store<u32>(output, count, 8);
  store<u32>(output, <u32>(top - bodies), 12);
  return answer(0, output, <u32>(top - output));
}
