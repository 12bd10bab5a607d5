/* A transform that does harm, in each way that a host has to contain. Its option `mode` says which;
 * its option `on`, the first byte of the values that it is done to: records with other values are
 * kept, so that a test sees whether they come through.
 *
 * | mode | |
 * |---|---|
 * | trap | executes `unreachable` |
 * | loop | never returns |
 * | recurse | until the stack overflows |
 * | allocate | grows memory until that fails, touching all of it, then traps |
 * | garbage | returns 64 bytes that are no output |
 * | flood | returns as many bytes as it can get |
 * | amplify | emits 1,000 copies of the record that name the input's parts, for 24 bytes each |
 * | outside | returns a pointer beyond its memory |
 * | outside-length | returns a length beyond its memory |
 * | few | returns no verdict for the last record |
 * | op, output, part, timestamp, headers | one field of one verdict out of range |
 * | body | a body that is longer than all bodies |
 * | undeclared | the verdict `reject`, which its manifest does not have |
 * | log | 100,000 lines and counters, then keeps |
 * | utf8 | logs bytes that are not UTF-8 |
 */
#include <stdint.h>

#define EXPORT(name) __attribute__((export_name(name)))
#define IMPORT(name) \
  __attribute__((import_module("millstream:plugin/host@1.0.0"), import_name(name)))

IMPORT("log") void host_log(uint32_t level, const void *at, uint32_t bytes);
IMPORT("counter") void host_counter(const void *at, uint32_t bytes, uint64_t add);

typedef struct { const uint8_t *at; uint32_t bytes; } slice;
typedef struct { slice name, value; } option;
typedef struct {
  int64_t offset, timestamp;
  int32_t key_bytes, value_bytes;
  uint32_t headers_bytes, header_count;
} record;
typedef struct {
  uint32_t magic;
  uint16_t version, flags;
  uint32_t count, bytes, partition, reserved;
} batch;
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

extern uint8_t __heap_base;
static uintptr_t top;

static uint8_t *room(uint32_t bytes) {
  if (top == 0) top = (uintptr_t)&__heap_base;
  top = (top + 7) & ~(uintptr_t)7;
  uintptr_t at = top;
  uint64_t end = (uint64_t)at + bytes;
  uint64_t size = (uint64_t)__builtin_wasm_memory_size(0) << 16;
  if (end > size && __builtin_wasm_memory_grow(0, (end - size + 65535) >> 16) == (uintptr_t)-1)
    __builtin_trap();
  top = (uintptr_t)end;
  return (uint8_t *)at;
}

EXPORT("cabi_realloc")
uint8_t *cabi_realloc(uint8_t *old, uint32_t old_bytes, uint32_t align, uint32_t bytes) {
  (void)old, (void)old_bytes, (void)align;
  return room(bytes);
}

static struct {
  slice name, version;
  uint16_t min_abi, max_abi;
  uint8_t stateless, needs, verdicts, nothing;
} manifest_area = {
    .name = {(const uint8_t *)"hostile", 7},
    .version = {(const uint8_t *)"1.0.0", 5},
    .min_abi = 1,
    .max_abi = 1,
    .stateless = 1,
    .needs = 3,
    .verdicts = 63, /* all but reject */
};

EXPORT("manifest") void *manifest(void) { return &manifest_area; }

static struct { uint8_t is_error; slice payload; } answer_area;

static void *answer(uint8_t is_error, const void *at, uint32_t bytes) {
  answer_area.is_error = is_error;
  answer_area.payload = (slice){at, bytes};
  top = (uintptr_t)&__heap_base;
  return &answer_area;
}

static const char *const MODES[] = {
    "trap", "loop", "recurse", "allocate", "garbage", "flood", "amplify", "outside",
    "outside-length", "few", "op", "output", "part", "timestamp", "headers", "body", "undeclared",
    "log", "utf8",
};
enum { TRAP, LOOP, RECURSE, ALLOCATE, GARBAGE, FLOOD, AMPLIFY, OUTSIDE, OUTSIDE_LENGTH, FEW, OP,
       OUTPUT, PART, TIMESTAMP, HEADERS, BODY, UNDECLARED, LOG, UTF8, COUNT };

static int mode = COUNT;
static int on = -1;

static int is(slice found, const char *text) {
  uint32_t at = 0;
  while (at < found.bytes && text[at] != 0 && found.at[at] == (uint8_t)text[at]) at++;
  return at == found.bytes && text[at] == 0;
}

EXPORT("configure")
void *configure(uint32_t abi, const option *options, uint32_t option_count, const uint8_t *input,
                uint32_t input_bytes, const slice *output_names, uint32_t output_count) {
  (void)abi, (void)input, (void)input_bytes, (void)output_names, (void)output_count;
  for (uint32_t index = 0; index < option_count; index++) {
    slice value = options[index].value;
    if (is(options[index].name, "on") && value.bytes > 0) on = value.at[0];
    if (is(options[index].name, "mode"))
      for (int known = 0; known < COUNT; known++)
        if (is(value, MODES[known])) mode = known;
  }
  return mode == COUNT ? answer(1, "unknown mode", 12) : answer(0, 0, 0);
}

static const uint8_t *value_of(const record *r) {
  return (const uint8_t *)(r + 1) + (r->key_bytes < 0 ? 0 : r->key_bytes);
}

static const record *next_of(const record *r) {
  uintptr_t end = (uintptr_t)value_of(r) + (r->value_bytes < 0 ? 0 : r->value_bytes) + r->headers_bytes;
  return (const record *)((end + 7) & ~(uintptr_t)7);
}

static int is_suspect(const record *r) {
  return on < 0 || (r->value_bytes > 0 && value_of(r)[0] == on);
}

static volatile int sink;

static __attribute__((noinline)) int recurse(int depth) {
  volatile int here[64];
  here[depth & 63] = depth;
  if (sink < 0) return 0; /* Never. */
  return recurse(depth + 1) + here[depth & 63];
}

/* What is done at once; whether there is no more to do. */
static void *at_once(void) {
  switch (mode) {
    case TRAP:
      __builtin_trap();
    case LOOP:
      for (;;) sink++;
    case RECURSE:
      sink = recurse(0);
      break;
    case ALLOCATE:
      for (;;) {
        uint8_t *at = room(1 << 20);
        for (uint32_t byte = 0; byte < 1 << 20; byte += 4096) at[byte] = 1;
      }
    case GARBAGE: {
      uint8_t *at = room(64);
      for (uint32_t byte = 0; byte < 64; byte++) at[byte] = (uint8_t)(byte * 151 + 7);
      return answer(0, at, 64);
    }
    case FLOOD: {
      uint32_t left = 60u << 20;
      uintptr_t start = (uintptr_t)&__heap_base;
      while (__builtin_wasm_memory_grow(0, 16) != (uintptr_t)-1 && left > 0) left -= 1 << 20;
      return answer(0, &__heap_base, (uint32_t)((__builtin_wasm_memory_size(0) << 16) - start));
    }
    case OUTSIDE:
      return answer(0, (const void *)0xfffffff0, 64);
    case OUTSIDE_LENGTH:
      return answer(0, &__heap_base, 0x7fffffff);
    case LOG:
      for (int line = 0; line < 100000; line++) {
        host_log(line & 3, &__heap_base - 64, 0);
        host_counter("lines", 5, 1);
      }
      break;
    case UTF8:
      host_log(0, "\xff\xfe", 2);
      break;
  }
  return 0;
}

static verdict judge(const record *r) {
  verdict v = {0, 0, 0, 0};
  out_record out = {-1, -2, -2, -2, 0, 0, 0};
  if (!is_suspect(r)) return v;
  v.op = 3;
  switch (mode) {
    case OP:
      return (verdict){200, 0, 0, 0};
    case OUTPUT:
      return (verdict){0, 255, 0, 0};
    case BODY:
      return (verdict){2, 0, 0, 0xffffffff};
    case UNDECLARED:
      return (verdict){6, 0, 0, 0};
    case AMPLIFY: {
      v = (verdict){4, 0, 1000, 1000 * sizeof out};
      for (int copy = 0; copy < 1000; copy++) *(out_record *)room(sizeof out) = out;
      return v;
    }
    case PART:
      out.value_bytes = -3;
      break;
    case TIMESTAMP:
      out.timestamp = INT64_MIN;
      break;
    case HEADERS:
      out.header_count = 7;
      break;
    default:
      return (verdict){0, 0, 0, 0};
  }
  *(out_record *)room(sizeof out) = out;
  v.body_bytes = sizeof out;
  return v;
}

EXPORT("apply") void *apply(const batch *in, uint32_t bytes) {
  (void)bytes;
  int suspects = 0;
  const record *r = (const record *)(in + 1);
  for (uint32_t index = 0; index < in->count; index++, r = next_of(r)) suspects += is_suspect(r);
  if (suspects > 0) {
    void *done = at_once();
    if (done != 0) return done;
  }
  uint32_t count = in->count - (mode == FEW && suspects > 0);
  verdicts *out = (verdicts *)room(sizeof *out);
  verdict *table = (verdict *)room(count * (uint32_t)sizeof *table);
  uintptr_t bodies = top;
  r = (const record *)(in + 1);
  for (uint32_t index = 0; index < count; index++, r = next_of(r)) table[index] = judge(r);
  *out = (verdicts){0x3156534d, 1, 0, count, (uint32_t)(top - bodies)};
  return answer(0, out, (uint32_t)(top - (uintptr_t)out));
}
