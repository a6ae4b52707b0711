/* The vectors of rows and columns: counts, decoding, bits, codes from logits. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "../kernel.h"
#include "test.h"

static void pairs_line(void)
{
    int32_t a[MOST], b[MOST];
    int64_t want[MOST], got[MOST];
    const uint64_t ka = count(), kb = count(), n = count();
    for (uint64_t i = 0; i < n; i++)
        a[i] = (int32_t)i64();
    for (uint64_t i = 0; i < n; i++)
        b[i] = (int32_t)i64();
    for (uint64_t i = 0; i < ka * kb && i < MOST; i++)
        want[i] = i64();
    expect(ka * kb <= MOST && er_count_pairs(got, ka, kb, a, 1, b, 1, n) == ER_OK &&
               memcmp(got, want, ka * kb * sizeof *got) == 0,
           "pairs", "counts");
}

static void bits_line(void)
{
    int32_t codes[MOST], back[MOST];
    uint8_t want[4 * MOST], got[4 * MOST];
    const int width = (int)i64();
    const uint64_t n = count(), size = (n * (uint64_t)width + 7) / 8;
    for (uint64_t i = 0; i < n; i++)
        codes[i] = (int32_t)i64();
    bytes(want, (int)size);
    expect(er_pack_bits(got, size, codes, 1, n, width) == ER_OK && memcmp(got, want, size) == 0,
           "bits", "packed");
    expect(er_unpack_bits(back, 1, n, width, want, size) == ER_OK &&
               memcmp(back, codes, n * sizeof *back) == 0,
           "bits", "unpacked");
}

void categorical_line(void)
{
    static float logits[64 * MOST], u[MOST];
    int32_t want[MOST], got[MOST];
    uint32_t widths[MOST], total = 0;
    const float temperature = f32();
    const uint64_t rows = count(), columns = count();
    for (uint64_t c = 0; c < columns; c++)
        total += widths[c] = (uint32_t)count();
    if (rows * total > 64 * MOST || rows * columns > MOST) {
        expect(0, "categorical", "a vector is too long");
        return;
    }
    for (uint64_t i = 0; i < rows * total; i++)
        logits[i] = f32();
    for (uint64_t i = 0; i < rows * columns; i++)
        u[i] = f32();
    for (uint64_t i = 0; i < rows * columns; i++)
        want[i] = (int32_t)i64();
    const int code = er_categorical(got, (int64_t)columns, rows, logits, (int64_t)total, u,
                                    (int64_t)columns, widths, columns, temperature);
    expect(code == ER_OK && memcmp(got, want, rows * columns * sizeof *got) == 0, "categorical",
           er_isa());
}

void columns_line(void)
{
    char use[8];
    double knots[MOST], want64[MOST], got64[MOST];
    float u[MOST], want32[MOST], got32[MOST];
    int64_t want_int[MOST], got_int[MOST];
    int32_t codes[MOST];
    snprintf(use, sizeof use, "%s", word());
    if (strcmp(use, "pairs") == 0) {
        pairs_line();
        return;
    }
    if (strcmp(use, "bits") == 0) {
        bits_line();
        return;
    }
    const int grid = strcmp(use, "grid") == 0;
    const int64_t origin = grid ? i64() : 0, step = grid ? i64() : 1, missing = grid ? i64() : 0;
    const int decimals = (int)i64();
    const uint64_t bins = count(), per_bin = count();
    for (uint64_t i = 0; i < bins * per_bin && i < MOST; i++)
        knots[i] = f64();
    const uint64_t n = count();
    for (uint64_t i = 0; i < n; i++)
        codes[i] = (int32_t)i64();
    for (uint64_t i = 0; i < n; i++)
        u[i] = f32();
    for (uint64_t i = 0; i < n; i++) {
        if (strcmp(use, "f64") == 0)
            want64[i] = f64();
        else if (strcmp(use, "f32") == 0)
            want32[i] = f32();
        else
            want_int[i] = i64();
    }
    int code, same = 1;
    if (strcmp(use, "f64") == 0) {
        code = er_decode_f64(got64, n, codes, 1, u, 1, knots, bins, per_bin, decimals);
        /* the sign of a NaN is nobody's promise */
        for (uint64_t i = 0; i < n; i++)
            same &= isnan(want64[i]) ? isnan(got64[i]) : memcmp(&want64[i], &got64[i], 8) == 0;
    } else if (strcmp(use, "f32") == 0) {
        code = er_decode_f32(got32, n, codes, 1, u, 1, knots, bins, per_bin, decimals);
        for (uint64_t i = 0; i < n; i++)
            same &= isnan(want32[i]) ? isnan(got32[i]) : memcmp(&want32[i], &got32[i], 4) == 0;
    } else {
        code = grid ? er_decode_grid(got_int, n, codes, 1, u, 1, knots, bins, per_bin, origin,
                                     step, missing)
                    : er_decode_i64(got_int, n, codes, 1, u, 1, knots, bins, per_bin);
        same = memcmp(got_int, want_int, n * sizeof *got_int) == 0;
    }
    expect(code == ER_OK && same, "decode", use);
}
