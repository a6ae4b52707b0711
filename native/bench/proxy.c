/* Runs one primitive once, for tools/bench/kernel_proxy.py to count its instructions.
 *
 *     proxy <primitive> <size>
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../kernel.h"

#define MOST 4096
#define COLUMNS 14
#define WIDTH 11

static float f32[MOST], logits[MOST * WIDTH];
static int32_t a[MOST], b[MOST], out[MOST];
static int64_t i64[MOST];
static double f64[MOST];
static uint8_t packed[MOST];

/* rows drawn by a network of 14 columns of 18 codes and 128 hidden units */
static int generator(const char *isa, uint64_t n)
{
    enum { V = COLUMNS * 18, H = 128 };
    static const uint8_t key[32] = {1};
    static int8_t w1[V * H], w2[H * H], w3[H * V];
    static int32_t sizes[COLUMNS], b2[H], b3[V];
    static float up[H], shift[H], rescale2[H], skip2[H], scale3[V];
    for (int i = 0; i < COLUMNS; i++)
        sizes[i] = 18;
    for (int i = 0; i < V * H; i++)
        w1[i] = w3[i] = (int8_t)(i * 37 % 255 - 127);
    for (int i = 0; i < H * H; i++)
        w2[i] = (int8_t)(i * 53 % 255 - 127);
    for (int i = 0; i < H; i++) {
        up[i] = 0.25f;
        shift[i] = 20.0f;
        rescale2[i] = 0.001f;
        skip2[i] = 0.5f;
    }
    for (int i = 0; i < V; i++)
        scale3[i] = 0.0004f;
    const er_tensors t = {.logits = V, .w1 = w1, .w2 = w2, .w3 = w3, .b2 = b2, .b3 = b3,
                          .rescale1 = up, .shift1 = shift, .rescale2 = rescale2, .skip2 = skip2,
                          .scale3 = scale3};
    const er_draw d = {.rows = n, .key = key, .key_bytes = 32};
    er_generator *g = NULL;
    int code = er_generator_new(&g, isa, sizes, COLUMNS, H, &t);
    if (code == ER_OK)
        code = n * COLUMNS > MOST ? ER_SIZE : er_generator_rows(g, &d, out, NULL, 0);
    er_generator_free(g);
    return code;
}

static int run(const char *name, uint64_t n)
{
    static const uint8_t key[32] = {1};
    double knots[18 * 8];
    uint32_t widths[COLUMNS];
    /* the same start for every primitive: what is common falls out of the difference of two sizes */
    for (int i = 0; i < 18 * 8; i++)
        knots[i] = i;
    for (int i = 0; i < COLUMNS; i++)
        widths[i] = WIDTH;
    for (int i = 0; i < MOST; i++) {
        a[i] = i * 7 % 18;
        b[i] = i * 5 % 18;
        f32[i] = (float)(i % 64) / 64.0f;
    }
    if (strcmp(name, "uniform") == 0)
        return er_fill_uniform(f32, n, key, 32, 0, 0);
    if (strcmp(name, "normal") == 0)
        return er_fill_normal(f32, n, key, 32, 0, 0);
    if (strcmp(name, "exponential") == 0)
        return er_fill_exponential(f32, n, key, 32, 0, 0);
    if (strcmp(name, "categorical") == 0) /* n rows */
        return n * COLUMNS > MOST ? ER_SIZE
                                  : er_categorical(out, COLUMNS, n, logits, COLUMNS * WIDTH, f32,
                                                   COLUMNS, widths, COLUMNS, 1.0f);
    if (strcmp(name, "decode") == 0)
        return er_decode_f64(f64, n, a, 1, f32, 1, knots, 18, 8, ER_NO_ROUNDING);
    if (strcmp(name, "timestamps") == 0)
        return er_decode_grid(i64, n, a, 1, f32, 1, knots, 18, 8, 1000, 10, 0);
    if (strcmp(name, "pairs") == 0)
        return er_count_pairs(i64, 18, 18, a, 1, b, 1, n);
    if (strcmp(name, "pack") == 0)
        return er_pack_bits(packed, (n * 5 + 7) / 8, a, 1, n, 5);
    if (strcmp(name, "unpack") == 0)
        return er_unpack_bits(out, 1, n, 5, packed, (n * 5 + 7) / 8);
    if (strcmp(name, "training") == 0) {
        er_noise *noise = er_noise_new(key, 32);
        const int code = er_noise_training(noise, f32, n, NULL, 1.0, 1.0);
        er_noise_free(noise);
        return code;
    }
    if (strncmp(name, "generator ", 10) == 0) /* n rows */
        return generator(name + 10, n);
    return ER_VALUE;
}

int main(int argc, char **argv)
{
    const uint64_t n = argc == 3 ? strtoull(argv[2], NULL, 10) : 0;
    if (n == 0 || n > MOST) {
        printf("usage: proxy <primitive> <size, at most %d>\n", MOST);
        return 2;
    }
    const int code = run(argv[1], n);
    if (code != ER_OK)
        printf("%s: error %d\n", argv[1], code);
    return code != ER_OK;
}
