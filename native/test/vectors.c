/* The kernel against its known-answer vectors and its own rules, without Python.
 *
 *     vectors <directory of the .txt files>
 *
 * Runs every vector on every set of lanes that this processor has, then the refusals and the rare
 * branches. Prints what differs and a count; the exit status is 1 on any difference. Build it from
 * all C files of native/test and native/src, best with -fsanitize=address,undefined.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../kernel.h"
#include "../src/isa.h"
#include "../src/lanes.h"
#include "../src/noise.h"
#include "test.h"

static int failures = 0, checks = 0;

void expect(int holds, const char *what, const char *where)
{
    checks++;
    if (!holds) {
        failures++;
        printf("FAILED: %s (%s)\n", what, where);
    }
}

/* ---- lanes ---- */

static const er_lanes *all_lanes[3];
static int lanes_count = 0;

static void find_lanes(void)
{
    all_lanes[lanes_count++] = &er_lanes_portable;
#if ER_MULTIPLE_ISA
    if (er_lanes_avx2.usable())
        all_lanes[lanes_count++] = &er_lanes_avx2;
    if (er_lanes_avx512.usable())
        all_lanes[lanes_count++] = &er_lanes_avx512;
#endif
}

/* ---- one function per file of vectors ---- */

static void chacha_line(void)
{
    uint8_t key[32], want[64], got[64];
    uint32_t words[16];
    const int rounds = (int)i64();
    bytes(key, 32);
    const uint64_t counter = u64(), nonce = u64();
    bytes(want, 64);
    expect(er_chacha_block(words, key, 32, counter, nonce, rounds) == ER_OK, "chacha", "code");
    for (int i = 0; i < 64; i++)
        got[i] = (uint8_t)(words[i / 4] >> 8 * (i % 4));
    expect(memcmp(want, got, 64) == 0, "chacha block", "published vector");
}

static void streams_line(void)
{
    uint8_t key[32];
    float want[MOST], got[MOST], group[2 * ER_GROUP];
    uint32_t words[8];
    const char *use = word();
    const int kind = strcmp(use, "normal") == 0 ? 1 : strcmp(use, "exponential") == 0 ? 2 : 0;
    bytes(key, 32);
    const uint64_t stream = u64(), offset = u64(), n = count();
    for (uint64_t i = 0; i < n; i++)
        want[i] = f32();
    int (*const fills[3])(float *, uint64_t, const uint8_t *, uint64_t, uint64_t, uint64_t) = {
        er_fill_uniform, er_fill_normal, er_fill_exponential};
    const int code = fills[kind](got, n, key, 32, stream, offset);
    expect(code == ER_OK && memcmp(want, got, n * sizeof *got) == 0, "stream", "public function");
    for (int i = 0; i < 8; i++)
        words[i] = (uint32_t)key[4 * i] | (uint32_t)key[4 * i + 1] << 8 |
                   (uint32_t)key[4 * i + 2] << 16 | (uint32_t)key[4 * i + 3] << 24;
    for (int l = 0; l < lanes_count; l++) {
        const er_lanes *lanes = all_lanes[l];
        const uint64_t nonce = (uint64_t)kind << 56 | stream;
        (kind == 2 ? lanes->exponential : kind == 1 ? lanes->normal : lanes->uniform)(
            group, 2, words, nonce, offset / ER_GROUP);
        expect(memcmp(want, group + offset % ER_GROUP, n * sizeof *want) == 0, "stream",
               all_lanes[l]->name);
    }
}

static void noise_values(const char *use, uint8_t *seed, const er_lanes *lanes, uint64_t first,
                         uint64_t second, double p, uint64_t n, const int64_t *want)
{
    er_noise *noise = er_noise_new(seed, 32);
    if (noise == NULL) {
        expect(0, "er_noise_new", use);
        return;
    }
    noise->lanes = lanes;
    int64_t got[MOST];
    uint64_t wide[MOST];
    uint8_t bits[MOST];
    int code;
    if (strcmp(use, "uniform") == 0) {
        code = er_noise_uniform_u64(noise, wide, n);
        memcpy(got, wide, n * sizeof *got);
    } else if (strcmp(use, "bernoulli") == 0) {
        code = er_noise_bernoulli(noise, bits, n, p);
        for (uint64_t i = 0; i < n; i++)
            got[i] = bits[i];
    } else if (strcmp(use, "gaussian") == 0) {
        code = er_noise_discrete_gaussian(noise, got, n, first, second);
    } else if (strcmp(use, "laplace") == 0) {
        code = er_noise_discrete_laplace(noise, got, n, first, second);
    } else if (strcmp(use, "base") == 0) {
        code = er_noise_base(noise, got, n);
    } else {
        code = er_noise_wide(noise, got, n);
    }
    expect(code == ER_OK && memcmp(got, want, n * sizeof *want) == 0, use, lanes->name);
    er_noise_free(noise);
}

static void training_line(uint8_t *seed)
{
    float grad[MOST], want[MOST], got[MOST];
    uint8_t mask[MOST];
    const double clip_norm = f64(), noise_multiplier = f64();
    const uint64_t n = count();
    for (uint64_t i = 0; i < n; i++)
        grad[i] = f32();
    for (uint64_t i = 0; i < n; i++)
        mask[i] = (uint8_t)u64();
    for (uint64_t i = 0; i < n; i++)
        want[i] = f32();
    for (int l = 0; l < lanes_count; l++) {
        er_noise *noise = er_noise_new(seed, 32);
        if (noise == NULL) {
            expect(0, "er_noise_new", "training");
            return;
        }
        noise->lanes = all_lanes[l];
        memcpy(got, grad, sizeof got);
        const int code = er_noise_training(noise, got, n, mask, clip_norm, noise_multiplier);
        expect(code == ER_OK && memcmp(got, want, n * sizeof *want) == 0, "training",
               all_lanes[l]->name);
        er_noise_free(noise);
    }
}

static void noise_line(void)
{
    char use[16];
    uint8_t seed[32];
    int64_t want[MOST];
    snprintf(use, sizeof use, "%s", word());
    bytes(seed, 32);
    if (strcmp(use, "training") == 0) {
        training_line(seed);
        return;
    }
    const int gaussian = strcmp(use, "gaussian") == 0 || strcmp(use, "laplace") == 0;
    const double p = strcmp(use, "bernoulli") == 0 ? f64() : 0.0;
    const uint64_t first = gaussian ? u64() : 0, second = gaussian ? u64() : 0, n = count();
    for (uint64_t i = 0; i < n; i++) {
        if (strcmp(use, "uniform") == 0) {
            const uint64_t value = u64();
            memcpy(&want[i], &value, sizeof value);
        } else {
            want[i] = i64();
        }
    }
    for (int l = 0; l < lanes_count; l++)
        noise_values(use, seed, all_lanes[l], first, second, p, n, want);
}

static void run_file(const char *directory, const char *name, void (*line)(void))
{
    static char path[4096], text[1 << 18];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    FILE *file = fopen(path, "r");
    if (file == NULL) {
        printf("FAILED: cannot open %s\n", path);
        exit(1);
    }
    int lines = 0;
    while (fgets(text, sizeof text, file) != NULL) {
        if (text[0] == '#' || text[0] == '\n')
            continue;
        start_line(text);
        line();
        lines++;
    }
    fclose(file);
    expect(lines > 0, "a file without vectors", name);
    printf("%s: %d vectors\n", name, lines);
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        printf("usage: vectors <directory>\n");
        return 2;
    }
    find_lanes();
    run_file(argv[1], "chacha.txt", chacha_line);
    run_file(argv[1], "streams.txt", streams_line);
    run_file(argv[1], "noise.txt", noise_line);
    for (uint64_t i = 0; er_isa_name(i) != NULL; i++) { /* through the public choice */
        expect(er_isa_select(er_isa_name(i)) == ER_OK, "er_isa_select", er_isa_name(i));
        expect(strcmp(er_isa(), er_isa_name(i)) == 0, "er_isa", er_isa_name(i));
        run_file(argv[1], "columns.txt", columns_line);
        run_file(argv[1], "categorical.txt", categorical_line);
        check_rules();
    }
    er_isa_select(NULL);
    check_generator(argv[1]);
    printf("%s, lanes up to %s: %d checks, %d failed\n", er_isa(), er_lanes_name(), checks,
           failures);
    return failures != 0;
}
