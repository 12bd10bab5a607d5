/* The conformance behaviour in C, without a library: docs/plugin-abi.md is all that it knows.
 *
 * Memory above the data is one stack: arguments first, the output behind them. Each export puts the
 * top back to the bottom, so that the next call's arguments lie where these did; what an export
 * returned stays readable until then.
 */
#include <stdint.h>

#define EXPORT(name) __attribute__((export_name(name)))

typedef struct { const uint8_t *at; uint32_t bytes; } slice;
typedef struct { slice name, value; } option;

typedef struct {
  int64_t offset, timestamp;
  int32_t key_bytes, value_bytes;
  uint32_t headers_bytes, header_count;
} record;
_Static_assert(sizeof(record) == 32, "as in MSB1");

typedef struct {
  uint32_t magic;
  uint16_t version, flags;
  uint32_t count, bytes, partition, reserved;
} batch;
_Static_assert(sizeof(batch) == 24, "as in MSB1");

typedef struct { uint8_t op, output; uint16_t n; uint32_t body_bytes; } verdict;
typedef struct {
  uint32_t magic;
  uint16_t version, flags;
  uint32_t count, body_bytes;
} verdicts;
typedef struct {
  int64_t timestamp;
  int32_t key_bytes, value_bytes, headers_bytes;
  uint16_t header_count;
  uint8_t output, reserved;
} out_record;
_Static_assert(sizeof(verdict) == 8 && sizeof(verdicts) == 16 && sizeof(out_record) == 24,
               "as in MSV1");

/* The bytes as they stand, read as a little-endian number. */
enum { MSB1 = 0x3142534d, MSV1 = 0x3156534d };
enum { KEEP, DROP, REPLACE_VALUE, REPLACE_RECORD, EMIT, DEAD_LETTER, REJECT };
enum { VALUES = 1, HEADERS = 2, PRODUCE = 4 };
enum { NONE = -1, SAME = -2, SAME_TIMESTAMP = -1 };

extern uint8_t __heap_base;
static uintptr_t top;

static uintptr_t bottom(void) { return ((uintptr_t)&__heap_base + 7) & ~(uintptr_t)7; }

/* Room for `bytes` at the top of the stack. A guest without memory left has nothing to say. */
static uint8_t *room(uint32_t bytes) {
  if (top == 0) top = bottom();
  uintptr_t at = top;
  uint64_t end = (uint64_t)at + bytes;
  uint64_t size = (uint64_t)__builtin_wasm_memory_size(0) << 16;
  if (end > size) {
    uint64_t pages = (end - size + 65535) >> 16;
    if (__builtin_wasm_memory_grow(0, pages) == (uintptr_t)-1) __builtin_trap();
  }
  top = (uintptr_t)end;
  return (uint8_t *)at;
}

static void copy(uint8_t *to, const uint8_t *from, uint32_t bytes) {
  __builtin_memcpy(to, from, bytes);
}

EXPORT("cabi_realloc")
uint8_t *cabi_realloc(uint8_t *old, uint32_t old_bytes, uint32_t align, uint32_t bytes) {
  (void)align; /* 8 is enough for everything in the package. */
  top = ((top == 0 ? bottom() : top) + 7) & ~(uintptr_t)7;
  uint8_t *new = room(bytes);
  if (old_bytes > 0) copy(new, old, old_bytes < bytes ? old_bytes : bytes);
  return new;
}

static uint32_t length(const char *text) {
  uint32_t bytes = 0;
  while (text[bytes] != 0) bytes++;
  return bytes;
}

static int is(slice found, const char *text) {
  if (found.bytes != length(text)) return 0;
  for (uint32_t at = 0; at < found.bytes; at++)
    if (found.at[at] != (uint8_t)text[at]) return 0;
  return 1;
}

static struct {
  slice name, version;
  uint16_t min_abi, max_abi;
  uint8_t stateless, needs, verdicts, nothing;
} manifest_area = {
    .name = {(const uint8_t *)"conformance", 11},
    .version = {(const uint8_t *)"1.0.0", 5},
    .min_abi = 1,
    .max_abi = 1,
    .stateless = 1,
    .needs = 3,
    .verdicts = 127,
};

EXPORT("manifest") void *manifest(void) { return &manifest_area; }

static struct { uint8_t is_error; slice payload; } answer_area;
_Static_assert(sizeof(answer_area) == 12, "a result of two words");

static void *answer(uint8_t is_error, const uint8_t *at, uint32_t bytes) {
  answer_area.is_error = is_error;
  answer_area.payload = (slice){at, bytes};
  top = bottom();
  return &answer_area;
}

static void *error(const char *text) { return answer(1, (const uint8_t *)text, length(text)); }

static const char *const MODES[] = {
    "keep", "drop-every", "upper", "null", "swap", "header", "stamp",
    "twice", "none", "route", "dead", "reject", "fail",
};
enum { M_KEEP, M_DROP_EVERY, M_UPPER, M_NULL, M_SWAP, M_HEADER, M_STAMP,
       M_TWICE, M_NONE, M_ROUTE, M_DEAD, M_REJECT, M_FAIL, M_COUNT };

static int mode = M_COUNT;
static int64_t every;
static uint32_t outputs;

EXPORT("configure")
void *configure(uint32_t abi, const option *options, uint32_t option_count, const uint8_t *input,
                uint32_t input_bytes, const slice *output_names, uint32_t output_count) {
  (void)input, (void)input_bytes, (void)output_names;
  if (abi != 1) return error("this layout version is not known");
  mode = M_COUNT;
  every = 0;
  outputs = output_count;
  for (uint32_t index = 0; index < option_count; index++) {
    slice value = options[index].value;
    if (is(options[index].name, "mode"))
      for (int known = 0; known < M_COUNT; known++)
        if (is(value, MODES[known])) mode = known;
    if (is(options[index].name, "n"))
      for (uint32_t at = 0; at < value.bytes; at++) every = every * 10 + (value.at[at] - '0');
  }
  if (mode == M_COUNT) return error("unknown mode");
  if (mode == M_DROP_EVERY && every <= 0) return error("the option n is no number above 0");
  return answer(0, 0, 0);
}

/* The key, value and headers of a record lie behind it. */
static const uint8_t *key_of(const record *r) { return (const uint8_t *)(r + 1); }
static uint32_t bytes_of(int32_t length) { return length < 0 ? 0 : (uint32_t)length; }
static const uint8_t *value_of(const record *r) { return key_of(r) + bytes_of(r->key_bytes); }
static const uint8_t *headers_of(const record *r) { return value_of(r) + bytes_of(r->value_bytes); }

static const record *next_of(const record *r) {
  uintptr_t end = (uintptr_t)headers_of(r) + r->headers_bytes;
  return (const record *)((end + 7) & ~(uintptr_t)7);
}

static const out_record UNCHANGED = {
    .timestamp = SAME_TIMESTAMP, .key_bytes = SAME, .value_bytes = SAME, .headers_bytes = SAME};

static void put(const void *from, uint32_t bytes) { copy(room(bytes), from, bytes); }

static uint32_t put_reason(int64_t offset) {
  char digits[20];
  uint32_t count = 0;
  uint64_t rest = (uint64_t)offset;
  do digits[count++] = (char)('0' + rest % 10);
  while ((rest /= 10) > 0);
  put("offset ", 7);
  for (uint32_t at = count; at > 0; at--) put(&digits[at - 1], 1);
  return 7 + count;
}

static void put_upper(const record *r) {
  uint32_t bytes = bytes_of(r->value_bytes);
  const uint8_t *from = value_of(r);
  uint8_t *to = room(bytes);
  for (uint32_t at = 0; at < bytes; at++)
    to[at] = from[at] >= 'a' && from[at] <= 'z' ? from[at] - 32 : from[at];
}

static void put_swapped(const record *r) {
  out_record out = UNCHANGED;
  out.key_bytes = r->value_bytes;
  out.value_bytes = r->key_bytes;
  put(&out, sizeof out);
  put(value_of(r), bytes_of(r->value_bytes));
  put(key_of(r), bytes_of(r->key_bytes));
}

static void put_with_header(const record *r) {
  static const struct { uint32_t name_bytes; int32_t value_bytes; char text[12]; } header = {
      11, 1, {'c', 'o', 'n', 'f', 'o', 'r', 'm', 'a', 'n', 'c', 'e', '1'}};
  out_record out = UNCHANGED;
  out.headers_bytes = (int32_t)(r->headers_bytes + sizeof header);
  out.header_count = (uint16_t)(r->header_count + 1);
  put(&out, sizeof out);
  put(headers_of(r), r->headers_bytes);
  put(&header, sizeof header);
}

static verdict judge(const record *r) {
  verdict v = {KEEP, 0, 0, 0};
  uintptr_t before = top;
  switch (mode) {
    case M_DROP_EVERY:
      if (r->offset % every == 0) v.op = DROP;
      break;
    case M_UPPER:
      if (r->value_bytes == NONE) break;
      v.op = REPLACE_VALUE;
      put_upper(r);
      break;
    case M_NULL:
      v.op = REPLACE_VALUE;
      v.n = 1;
      break;
    case M_SWAP:
      v.op = REPLACE_RECORD;
      put_swapped(r);
      break;
    case M_HEADER:
      v.op = REPLACE_RECORD;
      put_with_header(r);
      break;
    case M_STAMP: {
      out_record out = UNCHANGED;
      out.timestamp = r->offset;
      v.op = REPLACE_RECORD;
      put(&out, sizeof out);
      break;
    }
    case M_TWICE: {
      out_record out = UNCHANGED;
      v.op = EMIT;
      v.n = 2;
      put(&out, sizeof out);
      out.output = (uint8_t)(outputs - 1);
      put(&out, sizeof out);
      break;
    }
    case M_NONE:
      v.op = EMIT;
      break;
    case M_ROUTE:
      v.output = (uint8_t)(r->offset % outputs);
      break;
    case M_DEAD:
    case M_REJECT:
      v.op = mode == M_DEAD ? DEAD_LETTER : REJECT;
      put_reason(r->offset);
      break;
  }
  v.body_bytes = (uint32_t)(top - before);
  return v;
}

EXPORT("apply") void *apply(const batch *in, uint32_t bytes) {
  if (bytes < sizeof *in || in->magic != MSB1 || in->bytes != bytes)
    return error("this is no batch");
  if (in->version != 1 || in->reserved != 0) return error("this layout version is not known");
  if (in->flags & ~(VALUES | HEADERS | PRODUCE)) return error("there are unknown flags");
  if (mode == M_FAIL) return error("asked to fail");
  top = (top + 7) & ~(uintptr_t)7;
  verdicts *out = (verdicts *)room(sizeof *out);
  verdict *table = (verdict *)room(in->count * (uint32_t)sizeof *table);
  uintptr_t bodies = top;
  const record *r = (const record *)(in + 1);
  for (uint32_t index = 0; index < in->count; index++, r = next_of(r)) table[index] = judge(r);
  *out = (verdicts){MSV1, 1, 0, in->count, (uint32_t)(top - bodies)};
  return answer(0, (uint8_t *)out, (uint32_t)(top - (uintptr_t)out));
}
