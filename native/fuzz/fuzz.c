/* libFuzzer over every entry point of kernel.h: a clear error code, never a crash.
 *
 * The input chooses the function, the instruction set, sizes, strides and contents. Buffers have
 * exactly the size that the arguments speak of, so that AddressSanitizer sees every stray access.
 * Sizes beyond the kernel's limits come with tiny buffers: such a call must refuse before it looks.
 * Sizes that are allowed but do not fit the memory of a test are the one thing left out.
 *
 *     make fuzz      (clang with libFuzzer; native/fuzz/corpus holds the inputs that matter)
 */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "../kernel.h"

#define ROWS_MOST 600

static const uint8_t *at, *end;

static uint8_t byte(void)
{
    return at < end ? *at++ : 0;
}

static uint64_t word(void)
{
    uint64_t x = 0;
    for (int i = 0; i < 8; i++)
        x = x << 8 | byte();
    return x;
}

static double real(void)
{
    static const double odd[] = {0.0, -0.0, 1.0, -1.0, 1e-310, 1e308, -1e308, 0x1p63, -0x1p63, 0.5};
    const uint8_t kind = byte();
    if (kind < 10)
        return odd[kind];
    if (kind < 13)
        return kind == 10 ? (double)NAN : kind == 11 ? (double)INFINITY : -(double)INFINITY;
    if (kind < 128)
        return (double)(int8_t)byte() / 8.0;
    const uint64_t bits = word();
    double x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static float single(void)
{
    const double x = real();
    return fabs(x) <= 3.4e38 ? (float)x : isnan(x) ? NAN : x < 0 ? -INFINITY : INFINITY;
}

/* a number of rows that a test can hold, or one that must be refused */
static uint64_t size(void)
{
    static const uint64_t wrong[] = {UINT64_MAX, (uint64_t)1 << 63, ((uint64_t)1 << 60) + 1};
    const uint8_t kind = byte();
    return kind >= 253 ? wrong[kind - 253] : ((uint64_t)kind * 256 + byte()) % (ROWS_MOST + 1);
}

static int64_t stride(void)
{
    static const int64_t odd[] = {0, -1, INT64_MIN, INT64_MAX};
    const uint8_t kind = byte();
    return kind < 4 ? odd[kind] : 1 + kind % 3;
}

/* length of a buffer of n rows; 1 where the call must be refused */
static size_t length(uint64_t n, int64_t step)
{
    if (n > ROWS_MOST || step < 0 || step > 1024)
        return 1;
    return n == 0 ? 0 : (size_t)((n - 1) * (uint64_t)step + 1);
}

static void *buffer(size_t bytes)
{
    void *p = malloc(bytes != 0 ? bytes : 1);
    if (p == NULL)
        abort();
    memset(p, 0x5a, bytes != 0 ? bytes : 1);
    return byte() == 255 ? (free(p), NULL) : p;
}

static void check(int code)
{
    if (code > ER_OK || code < ER_ISA)
        abort();
}

static int32_t *codes(size_t n)
{
    int32_t *p = buffer(n * sizeof *p);
    const uint8_t most = byte();
    for (size_t i = 0; p != NULL && i < n; i++) {
        const uint8_t x = byte();
        p[i] = x < 250 ? x % (most + 1) : x == 250 ? INT32_MIN : x == 251 ? INT32_MAX : -1;
    }
    return p;
}

static float *singles(size_t n, int uniform)
{
    float *p = buffer(n * sizeof *p);
    for (size_t i = 0; p != NULL && i < n; i++)
        p[i] = uniform && at < end && *at < 240 ? (float)byte() / 256.0f : single();
    return p;
}

static void fills(uint8_t which)
{
    uint8_t key[32];
    const uint64_t n = size(), stream = word(), offset = word();
    const uint64_t key_bytes = byte() < 250 ? 32 : word() % 32;
    for (int i = 0; i < 32; i++)
        key[i] = byte();
    float *out = buffer(length(n, 1) * sizeof *out);
    const uint64_t shift = byte() % 64;
    check((which == 0   ? er_fill_uniform
           : which == 1 ? er_fill_normal
                        : er_fill_exponential)(out, n, key, key_bytes, stream >> shift,
                                               offset >> shift));
    free(out);
}

static void block(void)
{
    uint8_t key[32] = {0};
    uint32_t out[16];
    const uint64_t key_bytes = byte() < 128 ? 32 : byte() % 32;
    check(er_chacha_block(byte() == 255 ? NULL : out, key, key_bytes, word(), word(),
                          (int)(int8_t)byte()));
}

static void categorical(void)
{
    uint32_t widths[8];
    uint64_t columns = byte() % 9, total = 0;
    const uint64_t rows = byte() == 255 ? UINT64_MAX : byte() % 40;
    for (uint64_t c = 0; c < columns; c++) {
        const uint8_t kind = byte();
        widths[c] = kind == 255 ? UINT32_MAX : kind == 254 ? ER_CATEGORIES_MAX : kind % 20u;
        if (kind == 253)
            widths[c] = 255 + byte() % 4u; /* around the size of a tile */
        total += widths[c];
    }
    const int lies = byte() == 255;
    const uint64_t held = rows <= 40 && total <= 8 * 260 ? rows : 0;
    const int64_t code_step = (int64_t)columns + byte() % 2 - lies;
    const int64_t logit_step = total <= 8 * 260 ? (int64_t)total + byte() % 2 - lies : INT64_MAX;
    const int64_t u_step = (int64_t)columns + byte() % 2;
    const float temperature = byte() < 200 ? 1.0f : single();
    float *logits = singles(held * (size_t)(held && logit_step > 0 ? logit_step : 0), 0);
    float *u = singles(held * (size_t)u_step, 1);
    int32_t *out = buffer(held * (size_t)(code_step < 0 ? 0 : code_step) * sizeof *out);
    check(er_categorical(out, code_step, rows, logits, logit_step, u, u_step, widths, columns,
                         temperature));
    free(logits);
    free(u);
    free(out);
}

static void decode(uint8_t which)
{
    const uint64_t n = size();
    const int64_t code_step = stride(), u_step = stride();
    const uint8_t shape = byte();
    uint64_t bins = shape % 16, per_bin = shape / 16;
    const size_t held = (size_t)(bins * per_bin);
    if (byte() == 255)
        bins = UINT64_MAX;
    double *knots = buffer(held * sizeof *knots), last = -100.0;
    for (size_t i = 0; knots != NULL && i < held; i++) /* mostly sorted, else nothing is reached */
        knots[i] = last = byte() < 240 ? last + (double)byte() / 4.0 : real();
    int32_t *code = codes(length(n, code_step));
    float *u = singles(length(n, u_step), 1);
    const size_t wide = length(n, 1);
    const int decimals = byte() < 100 ? ER_NO_ROUNDING : (int)(int8_t)byte();
    void *out = buffer(wide * (which == 1 ? sizeof(float) : 8));
    if (which == 0)
        check(er_decode_f64(out, n, code, code_step, u, u_step, knots, bins, per_bin, decimals));
    else if (which == 1)
        check(er_decode_f32(out, n, code, code_step, u, u_step, knots, bins, per_bin, decimals));
    else if (which == 2)
        check(er_decode_i64(out, n, code, code_step, u, u_step, knots, bins, per_bin));
    else {
        const uint64_t shift = byte() % 64;
        const int64_t origin = (int64_t)word(), step = (int64_t)word() >> shift;
        check(er_decode_grid(out, n, code, code_step, u, u_step, knots, bins, per_bin, origin, step,
                             (int64_t)word()));
    }
    free(knots);
    free(code);
    free(u);
    free(out);
}

static void counts(uint8_t which)
{
    const uint64_t n = size();
    const int64_t a_step = stride(), b_step = stride();
    const uint8_t kind = byte();
    const uint64_t ka = kind == 255 ? UINT64_MAX : byte(), kb = kind == 254 ? UINT64_MAX : byte();
    int32_t *a = codes(length(n, a_step)), *b = codes(length(n, b_step));
    int64_t *out = buffer((ka < 256 ? ka : 1) * (kb < 256 && which ? kb : 1) * sizeof *out);
    if (which == 0)
        check(er_count_codes(out, ka, a, n, a_step));
    else
        check(er_count_pairs(out, ka, kb, a, a_step, b, b_step, n));
    free(a);
    free(b);
    free(out);
}

static void pack(uint8_t which)
{
    const uint64_t n = size();
    const int64_t step = stride();
    const int width = (int)(int8_t)byte();
    const int fits = n <= ROWS_MOST && width >= 1 && width <= 25;
    uint64_t held = fits ? (n * (uint64_t)width + 7) / 8 : 1, told = held;
    if (byte() == 255)
        told = word();
    if (fits && told != held)
        held = 1;
    uint8_t *packed = buffer(held);
    for (uint64_t i = 0; packed != NULL && i < held; i++)
        packed[i] = byte();
    if (which == 0) {
        int32_t *code = codes(length(n, step));
        check(er_pack_bits(packed, told, code, step, n, width));
        free(code);
    } else {
        int32_t *code = buffer(length(n, step) * sizeof *code);
        check(er_unpack_bits(code, step, n, width, packed, told));
        free(code);
    }
    free(packed);
}

static void noise(uint8_t which)
{
    uint8_t seed[32];
    for (int i = 0; i < 32; i++)
        seed[i] = byte();
    er_noise *state = er_noise_new(seed, byte() == 255 ? byte() % 32 : 32);
    const uint64_t n = size() % (which >= 2 && which <= 3 ? 64 : UINT64_MAX);
    const size_t wide = length(n, 1);
    void *out = buffer(wide * 8);
    const uint64_t shift = byte() % 64;
    const uint64_t top = word() >> shift, bottom = word() >> (44 + shift % 20);
    if (which == 0)
        check(er_noise_uniform_u64(state, out, n));
    else if (which == 1)
        check(er_noise_bernoulli(state, out, n, real()));
    else if (which == 2)
        check(er_noise_discrete_gaussian(state, out, n, top, bottom));
    else if (which == 3)
        check(er_noise_discrete_laplace(state, out, n, top, bottom));
    else if (which == 4)
        check(er_noise_wide(state, out, n));
    else if (which == 5)
        check(er_noise_base(state, out, n));
    else {
        float *grad = singles(wide, 0);
        uint8_t *mask = buffer(wide);
        const double clip = real(), multiplier = real();
        check(er_noise_training(state, grad, n, mask, clip, multiplier));
        free(grad);
        free(mask);
    }
    free(out);
    er_noise_free(state);
}

/* small whole numbers as weights and biases */
static void *small(size_t n, size_t each)
{
    uint8_t *p = buffer(n * each);
    for (size_t i = 0; p != NULL && i < n * each; i++)
        p[i] = each == 1 || i % each == 0 ? byte() : 0;
    return p;
}

/* the right number, or one that no buffer can be as long as: those must be refused */
static uint64_t or_wrong(uint64_t right)
{
    static const uint64_t wrong[] = {0, ER_CATEGORIES_MAX + 1, UINT64_MAX, (uint64_t)1 << 63};
    return byte() == 255 ? wrong[byte() % 4] : right;
}

/* one column's output: the array and the table have the size that the arguments speak of */
static er_output column(uint64_t rows, int32_t cardinality)
{
    static const uint64_t slots[] = {1, 2, 4, 8, 3, 0, UINT64_MAX};
    er_output o = {.kind = byte() % 7};
    o.slots = slots[byte() % 7];
    o.bins = or_wrong((uint64_t)(cardinality > 0 ? cardinality : 1));
    const int fits = o.slots <= 8 && o.bins <= 64;
    o.out = buffer(rows <= ROWS_MOST ? rows * 8 : 1);
    o.missing = byte() < 128 ? NULL : buffer(rows <= ROWS_MOST ? rows : 1);
    const size_t cells = fits ? (size_t)(o.bins * o.slots) : 1;
    double *table = buffer(cells * sizeof *table);
    for (size_t i = 0; table != NULL && i < cells; i++)
        table[i] = real();
    o.table = table;
    return o;
}

static void draw(const er_generator *g, const int32_t *sizes, uint64_t columns)
{
    uint8_t key[32] = {byte()};
    er_draw d = {.rows = size(), .key = key, .key_bytes = byte() < 250 ? 32 : byte()};
    const uint64_t shift = byte() % 64;
    d.offset = word() >> shift;
    d.stream = word() >> (8 + shift % 48);
    d.decode_stream = word() >> (8 + shift % 48);
    d.forced_columns = byte() < 200 ? byte() % (columns + 1) : word();
    const int fits = d.rows <= ROWS_MOST && d.forced_columns <= columns;
    int32_t *forced = codes(fits ? (size_t)(d.rows * d.forced_columns) : 1);
    d.forced = forced;
    int32_t *out = byte() < 64 ? NULL : buffer(d.rows <= ROWS_MOST ? d.rows * columns * 4 : 1);
    er_output outputs[6];
    const uint64_t told = byte() < 240 ? columns : word();
    for (uint64_t c = 0; c < columns; c++)
        outputs[c] = column(d.rows, sizes[c]);
    check(er_generator_rows(g, &d, out, byte() < 32 ? NULL : outputs, told));
    for (uint64_t c = 0; c < columns; c++) {
        free(outputs[c].out);
        free(outputs[c].missing);
        free((void *)outputs[c].table);
    }
    free(forced);
    free(out);
}

static void generator(void)
{
    static const int32_t wrong_sizes[] = {0, -1, INT32_MIN, INT32_MAX, 65537};
    int32_t sizes[6];
    const uint64_t columns = 1 + byte() % 6, hidden = 1 + byte() % 40;
    uint64_t v = 0, sets = 0;
    for (uint64_t c = 0; c < columns; c++)
        v += (uint64_t)(sizes[c] = 1 + byte() % 12);
    while (er_generator_isa(sets) != NULL)
        sets++;
    er_tensors t = {.logits = or_wrong(v)};
    t.w1 = small(v * hidden, 1);
    t.w2 = small(hidden * hidden, 1);
    t.w3 = small(hidden * v, 1);
    t.b2 = small(hidden, 4);
    t.b3 = small(v, 4);
    const float **floats[] = {&t.rescale1, &t.shift1, &t.rescale2, &t.skip2, &t.scale3};
    for (int i = 0; i < 5; i++)
        *floats[i] = singles(i == 4 ? v : hidden, byte() < 240);
    if (byte() == 255)
        sizes[byte() % columns] = wrong_sizes[byte() % 5];
    er_generator *g = NULL;
    check(er_generator_new(&g, byte() == 255 ? "none" : er_generator_isa(byte() % (sets + 1)), sizes,
                           or_wrong(columns), or_wrong(hidden), &t));
    if (g != NULL) {
        const uint64_t rows = size();
        const size_t cells = rows <= ROWS_MOST ? (size_t)(rows * columns) : 1;
        float *u = singles(cells, 1);
        int32_t *out = buffer(cells * sizeof *out);
        check(er_generator_codes(g, out, u, rows));
        free(u);
        free(out);
        draw(g, sizes, columns);
    }
    er_generator_free(g);
    free((void *)t.w1), free((void *)t.w2), free((void *)t.w3), free((void *)t.b2);
    free((void *)t.b3);
    for (int i = 0; i < 5; i++)
        free((void *)*floats[i]);
}

static void isa(void)
{
    char name[16] = {0};
    for (int i = 0; i < 15; i++)
        name[i] = (char)byte();
    check(er_isa_select(name));
    if (er_isa() == NULL || er_lanes_name() == NULL || er_isa_name(word()) == er_isa_name(99))
        return;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    at = data;
    end = data + bytes;
    uint64_t sets = 0;
    while (er_isa_name(sets) != NULL)
        sets++;
    check(er_isa_select(er_isa_name(byte() % sets)));
    const uint8_t which = byte() % 22;
    if (which < 3)
        fills(which);
    else if (which == 3)
        block();
    else if (which == 4)
        categorical();
    else if (which < 9)
        decode(which - 5);
    else if (which < 11)
        counts(which - 9);
    else if (which < 13)
        pack(which - 11);
    else if (which < 20)
        noise(which - 13);
    else if (which == 20)
        isa();
    else
        generator();
    return 0;
}
