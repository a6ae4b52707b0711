/* The generator against its vectors on every instruction set, and its refusals. */
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../kernel.h"
#include "test.h"

#define COLUMNS 512
#define ROWS 256

/* As edge_runtime/kernel/network_reference.py makes them: stream by stream. */
typedef struct tensors {
    er_tensors use;
    int8_t *w[3];
    int32_t *b[2];
    float *f[5];
} tensors;

static void uniform(float *out, uint64_t n, const uint8_t *key, uint64_t stream)
{
    expect(er_fill_uniform(out, n, key, 32, stream, 0) == ER_OK, "uniform", "tensors");
}

static int make(tensors *t, uint64_t v, uint64_t h, const uint8_t *key)
{
    const uint64_t w[3] = {v * h, h * h, h * v}, b[2] = {h, v}, f[5] = {h, h, h, h, v};
    const float times[5] = {1.0f, 100.0f, 0.015625f, 1.0f, 0.0004f};
    float *u = malloc((v * h > h * h ? v * h : h * h) * sizeof *u);
    int whole = u != NULL;
    for (int i = 0; i < 3; i++)
        whole &= (t->w[i] = malloc(w[i])) != NULL;
    for (int i = 0; i < 2; i++)
        whole &= (t->b[i] = malloc(b[i] * sizeof *t->b[i])) != NULL;
    for (int i = 0; i < 5; i++)
        whole &= (t->f[i] = malloc(f[i] * sizeof *t->f[i])) != NULL;
    for (uint64_t i = 0; whole && i < 3; i++) {
        uniform(u, w[i], key, 1 + i);
        for (uint64_t k = 0; k < w[i]; k++)
            t->w[i][k] = (int8_t)((int32_t)(u[k] * 256.0f) - 128);
    }
    for (uint64_t i = 0; whole && i < 2; i++) {
        uniform(u, b[i], key, 4 + i);
        for (uint64_t k = 0; k < b[i]; k++)
            t->b[i][k] = (int32_t)(u[k] * 20000.0f) - 10000;
    }
    for (uint64_t i = 0; whole && i < 5; i++) {
        uniform(t->f[i], f[i], key, 6 + i);
        for (uint64_t k = 0; k < f[i]; k++)
            t->f[i][k] *= times[i];
    }
    free(u);
    const er_tensors use = {.logits = v, .w1 = t->w[0], .w2 = t->w[1], .w3 = t->w[2],
                            .b2 = t->b[0], .b3 = t->b[1], .rescale1 = t->f[0],
                            .shift1 = t->f[1], .rescale2 = t->f[2], .skip2 = t->f[3],
                            .scale3 = t->f[4]};
    t->use = use;
    return whole;
}

static void discard(tensors *t)
{
    for (int i = 0; i < 3; i++)
        free(t->w[i]);
    for (int i = 0; i < 2; i++)
        free(t->b[i]);
    for (int i = 0; i < 5; i++)
        free(t->f[i]);
}

static uint64_t digest(const int32_t *codes, uint64_t n)
{
    uint64_t hash = 0xcbf29ce484222325u;
    for (uint64_t i = 0; i < n; i++)
        hash = (hash ^ (uint64_t)codes[i]) * 0x100000001b3u;
    return hash;
}

static void one(const char *line)
{
    static int32_t sizes[COLUMNS], want[COLUMNS], codes[ROWS * COLUMNS], drawn[ROWS * COLUMNS],
        forced[ROWS];
    static float noise[ROWS * COLUMNS];
    uint8_t key[32];
    char *at;
    for (int i = 0; i < 32; i++) {
        unsigned byte = 0;
        if (sscanf(line + 2 * i, "%2x", &byte) != 1) {
            expect(0, "key", "generator.txt");
            return;
        }
        key[i] = (uint8_t)byte;
    }
    const uint64_t hidden = strtoull(line + 64, &at, 10), columns = strtoull(at, &at, 10);
    uint64_t v = 0;
    for (uint64_t c = 0; c < columns && c < COLUMNS; c++)
        v += (uint64_t)(sizes[c] = (int32_t)strtol(at, &at, 10));
    const uint64_t rows = strtoull(at, &at, 10), hash = strtoull(at, &at, 16);
    if (columns > COLUMNS || rows > ROWS || rows == 0 || v == 0) {
        expect(0, "size", "generator.txt");
        return;
    }
    for (uint64_t c = 0; c < columns; c++)
        want[c] = (int32_t)strtol(at, &at, 10);
    uniform(noise, rows * columns, key, 0);
    tensors t = {0};
    if (!make(&t, v, hidden, key)) {
        expect(0, "memory", "generator.txt");
        discard(&t);
        return;
    }
    for (uint64_t r = 0; r < rows; r += 3)
        noise[r * columns] = (float)sizes[0];
    const char *isa;
    for (uint64_t i = 0; (isa = er_generator_isa(i)) != NULL; i++) {
        er_generator *g = NULL;
        expect(er_generator_new(&g, isa, sizes, columns, hidden, &t.use) == ER_OK, "new", isa);
        if (g == NULL)
            continue;
        expect(er_generator_codes(g, codes, noise, rows) == ER_OK &&
                   digest(codes, rows * columns) == hash &&
                   memcmp(codes + (rows - 1) * columns, want, columns * sizeof *want) == 0,
               "generator", isa);
        /* the same rows with noise of the kernel's own, from the second on: codes alone are
         * forced by column, so the first column is taken from the first result */
        er_draw d = {.rows = rows - 1, .offset = 1, .key = key, .key_bytes = 32,
                     .forced = forced, .forced_columns = 1};
        for (uint64_t r = 1; r < rows; r++)
            forced[r - 1] = codes[r * columns];
        expect(er_generator_rows(g, &d, drawn, NULL, 0) == ER_OK &&
                   memcmp(drawn, codes + columns, (rows - 1) * columns * sizeof *codes) == 0,
               "generator, drawn", isa);
        er_generator_free(g);
    }
    discard(&t);
}

static void refusals(void)
{
    static const uint8_t key[32] = {1};
    const int32_t sizes[3] = {2, 4, 3}, none[3] = {2, 0, 7};
    int32_t codes[6], low[2] = {0, -1}, high[2] = {0, 2};
    float noise[6] = {0.0f, 0.5f, 0.25f, 1.0f, 4.0f, 3.5f}, odd[6];
    tensors t = {0};
    er_generator *g = NULL;
    if (!make(&t, 9, 8, key)) {
        expect(0, "memory", "refusals");
        discard(&t);
        return;
    }
#define REFUSED(call, code) expect((call) == (code), #call, "refusal")
    REFUSED(er_generator_new(NULL, NULL, sizes, 3, 8, &t.use), ER_NULL);
    REFUSED(er_generator_new(&g, NULL, NULL, 3, 8, &t.use), ER_NULL);
    REFUSED(er_generator_new(&g, NULL, sizes, 3, 8, NULL), ER_NULL);
    REFUSED(er_generator_new(&g, "abacus", sizes, 3, 8, &t.use), ER_ISA);
    REFUSED(er_generator_new(&g, NULL, sizes, 0, 8, &t.use), ER_SIZE);
    REFUSED(er_generator_new(&g, NULL, sizes, UINT64_MAX, 8, &t.use), ER_SIZE);
    REFUSED(er_generator_new(&g, NULL, sizes, 3, 0, &t.use), ER_SIZE);
    REFUSED(er_generator_new(&g, NULL, sizes, 3, 1025, &t.use), ER_SIZE);
    REFUSED(er_generator_new(&g, NULL, none, 3, 8, &t.use), ER_SIZE);
    REFUSED(er_generator_new(&g, NULL, sizes, 2, 8, &t.use), ER_SIZE);
    er_tensors missing = t.use;
    missing.b3 = NULL;
    REFUSED(er_generator_new(&g, NULL, sizes, 3, 8, &missing), ER_NULL);
    const float bad[] = {NAN, INFINITY, -1.0f, FLT_MAX};
    for (int i = 0; i < 4; i++) {
        const float before = t.f[4][2];
        t.f[4][2] = bad[i];
        REFUSED(er_generator_new(&g, NULL, sizes, 3, 8, &t.use), ER_VALUE);
        t.f[4][2] = before;
    }
    t.b[0][7] = INT32_MIN;
    REFUSED(er_generator_new(&g, NULL, sizes, 3, 8, &t.use), ER_VALUE);
    t.b[0][7] = 0;
    expect(g == NULL, "er_generator_new", "nothing made on refusal");
    REFUSED(er_generator_new(&g, NULL, sizes, 3, 8, &t.use), ER_OK);
    REFUSED(er_generator_codes(NULL, codes, noise, 2), ER_NULL);
    REFUSED(er_generator_codes(g, NULL, noise, 2), ER_NULL);
    REFUSED(er_generator_codes(g, codes, NULL, 2), ER_NULL);
    REFUSED(er_generator_codes(g, codes, noise, UINT64_MAX), ER_SIZE);
    REFUSED(er_generator_codes(g, NULL, NULL, 0), ER_OK);
    const float wrong[] = {NAN, INFINITY, -0.1f, 5.0f};
    for (int i = 0; i < 4; i++) {
        memcpy(odd, noise, sizeof odd);
        odd[4] = wrong[i];
        codes[0] = 77;
        REFUSED(er_generator_codes(g, codes, odd, 2), ER_VALUE);
        expect(codes[0] == 77, "er_generator_codes", "nothing changed on refusal");
    }
    REFUSED(er_generator_codes(g, codes, noise, 2), ER_OK);
    expect(codes[3] == 0 && codes[4] == 3 && codes[5] == 2, "er_generator_codes", "forced codes");
    const er_draw two = {.rows = 2, .key = key, .key_bytes = 32};
    er_draw d = two;
    REFUSED(er_generator_rows(NULL, &d, codes, NULL, 0), ER_NULL);
    REFUSED(er_generator_rows(g, NULL, codes, NULL, 0), ER_NULL);
    REFUSED(er_generator_rows(g, &d, NULL, NULL, 0), ER_NULL);
    d.key_bytes = 31;
    REFUSED(er_generator_rows(g, &d, codes, NULL, 0), ER_SIZE);
    d = two;
    d.key = NULL;
    REFUSED(er_generator_rows(g, &d, codes, NULL, 0), ER_NULL);
    d = two;
    d.offset = UINT64_MAX;
    REFUSED(er_generator_rows(g, &d, codes, NULL, 0), ER_SIZE);
    d = two;
    d.stream = UINT64_MAX;
    REFUSED(er_generator_rows(g, &d, codes, NULL, 0), ER_VALUE);
    d = two;
    d.forced_columns = 1;
    REFUSED(er_generator_rows(g, &d, codes, NULL, 0), ER_NULL);
    d.forced = low;
    REFUSED(er_generator_rows(g, &d, codes, NULL, 0), ER_RANGE);
    d.forced = high;
    REFUSED(er_generator_rows(g, &d, codes, NULL, 0), ER_RANGE);
    d.forced_columns = 4;
    REFUSED(er_generator_rows(g, &d, codes, NULL, 0), ER_SIZE);

    int8_t byte[2];
    double real[2], knots[6] = {0.0, 1.0, 1.0, 2.0, 2.0, 3.0};
    const int8_t table[2] = {0, 1};
    uint8_t gone[2];
    const er_output good[3] = {{ER_OUT_BYTES, byte, NULL, table, 2, 1},
                               {ER_OUT_LINEAR_F64, real, gone, knots, 3, 2},
                               {ER_OUT_NOTHING, NULL, NULL, NULL, 0, 0}};
    er_output o[3];
    memcpy(o, good, sizeof o);
    REFUSED(er_generator_rows(g, &two, NULL, o, 2), ER_SIZE);
    REFUSED(er_generator_rows(g, &two, codes, o, 3), ER_OK);
    expect(byte[0] == codes[0] && byte[1] == codes[3] && gone[0] == (codes[1] == 3) &&
               (gone[0] ? isnan(real[0]) : real[0] >= codes[1] && real[0] <= codes[1] + 1),
           "er_generator_rows", "decoded");
    o[0].bins = 1; /* fewer entries than codes */
    REFUSED(er_generator_rows(g, &two, NULL, o, 3), ER_SIZE);
    o[0] = good[0];
    o[0].out = NULL;
    REFUSED(er_generator_rows(g, &two, NULL, o, 3), ER_NULL);
    o[0] = good[0];
    o[0].kind = 99;
    REFUSED(er_generator_rows(g, &two, NULL, o, 3), ER_VALUE);
    o[0] = good[0];
    o[1].bins = 2; /* only the last code may be missing */
    REFUSED(er_generator_rows(g, &two, NULL, o, 3), ER_SIZE);
    o[1] = good[1];
    o[1].slots = UINT64_MAX;
    REFUSED(er_generator_rows(g, &two, NULL, o, 3), ER_SIZE);
    o[1] = good[1];
    o[1].kind = ER_OUT_POINTS;
    o[1].bins = 4;
    o[1].slots = 3; /* no power of two */
    REFUSED(er_generator_rows(g, &two, NULL, o, 3), ER_SIZE);
    o[1] = good[1];
    knots[1] = -1.0;
    REFUSED(er_generator_rows(g, &two, NULL, o, 3), ER_ORDER);
#undef REFUSED
    er_generator_free(g);
    er_generator_free(NULL);
    discard(&t);
}

void check_generator(const char *directory)
{
    static char path[4096], text[1 << 14];
    snprintf(path, sizeof path, "%s/generator.txt", directory);
    FILE *file = fopen(path, "r");
    expect(file != NULL, "open", "generator.txt");
    int lines = 0;
    while (file != NULL && fgets(text, sizeof text, file) != NULL)
        if (text[0] != '#' && text[0] != '\n') {
            one(text);
            lines++;
        }
    if (file != NULL)
        fclose(file);
    expect(lines > 0, "a file without vectors", "generator.txt");
    printf("generator.txt: %d vectors on", lines);
    for (uint64_t i = 0; er_generator_isa(i) != NULL; i++)
        printf(" %s", er_generator_isa(i));
    printf("\n");
    refusals();
}
