/* What no vector reaches: rare branches, splitting, and every refusal. */
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "../kernel.h"
#include "../src/noise.h"
#include "../src/wide.h"
#include "test.h"

/* The tie: a first word equal to an entry's upper bits. The words are set by hand. */
static void tie(void)
{
    static const uint8_t seed[32] = {0};
    er_noise *noise = er_noise_new(seed, 32);
    if (noise == NULL) {
        expect(0, "er_noise_new", "tie");
        return;
    }
    for (int index = 0; index < ER_BASE_ENTRIES; index++) {
        for (int step = -1; step <= 1; step++) {
            uint32_t draw[ER_BASE_LOWER_WORDS];
            memcpy(draw, er_base_lower[index], sizeof draw);
            uint32_t *last = &draw[ER_BASE_LOWER_WORDS - 1];
            /* entries whose last word cannot be moved by one are left to their neighbours */
            if ((step < 0 && *last == 0) || (step > 0 && *last == 0xffffffffu))
                continue;
            *last += (uint32_t)step;
            er_noise_refill(noise);
            noise->words[noise->next] = er_base_upper[index];
            memcpy(&noise->words[noise->next + 1], draw, sizeof draw);
            const uint32_t before = noise->next;
            /* U below entry i gives i; U equal to it or above gives the next one */
            int want = index + (step >= 0);
            want = want < ER_BASE_ENTRIES ? want : ER_BASE_ENTRIES - 1;
            const int64_t got = er_base(noise);
            expect(got == want - ER_BASE_REACH, "tie", "value");
            expect(noise->next == before + 1 + ER_BASE_LOWER_WORDS, "tie", "words drawn");
        }
    }
    er_noise_free(noise);
}

/* Splitting a fill anywhere must not change it. */
static void splitting(void)
{
    static float whole[1500], part[1500];
    static const uint8_t key[32] = {7};
    for (uint64_t cut = 0; cut <= 1500; cut += 37) {
        er_fill_normal(whole, 1500, key, 32, 3, 100);
        er_fill_normal(part, cut, key, 32, 3, 100);
        er_fill_normal(part + cut, 1500 - cut, key, 32, 3, 100 + cut);
        expect(memcmp(whole, part, sizeof whole) == 0, "splitting", "normal");
    }
}

static void refusals(void)
{
    uint8_t key[32] = {0}, bits[4], mask[2] = {1, 0};
    float f[4] = {0}, u[2] = {0.0f, 0.5f}, outside[2] = {0.0f, 1.0f};
    double d[4], knots[4] = {0.0, 1.0, 2.0, 3.0}, falling[4] = {0.0, 1.0, 3.0, 2.0};
    double endless[4] = {0.0, 1.0, 2.0, INFINITY}, huge[4] = {0.0, 1.0, 2.0, 1e19};
    int64_t l[16];
    int32_t codes[2] = {0, 1}, low[2] = {0, -1}, high[2] = {0, 3};
    uint32_t block[16];
#define REFUSED(call, code) expect((call) == (code), #call, "refusal")
    REFUSED(er_fill_uniform(NULL, 1, key, 32, 0, 0), ER_NULL);
    REFUSED(er_fill_uniform(f, 1, NULL, 32, 0, 0), ER_NULL);
    REFUSED(er_fill_uniform(f, 1, key, 31, 0, 0), ER_SIZE);
    REFUSED(er_fill_uniform(f, UINT64_MAX, key, 32, 0, 0), ER_SIZE);
    REFUSED(er_fill_normal(f, 1, key, 32, 0, UINT64_MAX), ER_SIZE);
    REFUSED(er_fill_normal(f, 1, key, 32, (uint64_t)1 << 56, 0), ER_VALUE);
    REFUSED(er_fill_normal(NULL, 0, key, 32, 0, 0), ER_OK);
    REFUSED(er_chacha_block(NULL, key, 32, 0, 0, 8), ER_NULL);
    REFUSED(er_chacha_block(block, key, 16, 0, 0, 8), ER_SIZE);
    REFUSED(er_chacha_block(block, key, 32, 0, 0, 7), ER_VALUE);
    REFUSED(er_decode_f64(d, 2, codes, 1, u, 1, NULL, 2, 2, 0), ER_NULL);
    REFUSED(er_decode_f64(NULL, 2, codes, 1, u, 1, knots, 2, 2, 0), ER_NULL);
    REFUSED(er_decode_f64(d, 2, codes, -1, u, 1, knots, 2, 2, 0), ER_SIZE);
    REFUSED(er_decode_f64(d, 2, codes, 1, u, INT64_MAX, knots, 2, 2, 0), ER_SIZE);
    REFUSED(er_decode_f64(d, UINT64_MAX, codes, 1, u, 1, knots, 2, 2, 0), ER_SIZE);
    REFUSED(er_decode_f64(d, 2, codes, 1, u, 1, knots, 0, 2, 0), ER_SIZE);
    REFUSED(er_decode_f64(d, 2, codes, 1, u, 1, knots, 2, UINT64_MAX, 0), ER_SIZE);
    REFUSED(er_decode_f64(d, 2, low, 1, u, 1, knots, 2, 2, 0), ER_RANGE);
    REFUSED(er_decode_f64(d, 2, high, 1, u, 1, knots, 2, 2, 0), ER_RANGE);
    REFUSED(er_decode_f64(d, 2, codes, 1, outside, 1, knots, 2, 2, 0), ER_VALUE);
    REFUSED(er_decode_f64(d, 2, codes, 1, u, 1, falling, 2, 2, 0), ER_ORDER);
    REFUSED(er_decode_f64(d, 2, codes, 1, u, 1, endless, 2, 2, 0), ER_VALUE);
    REFUSED(er_decode_f32(f, 2, codes, 1, u, 1, knots, 2, 2, 16), ER_VALUE);
    REFUSED(er_decode_i64(l, 2, codes, 1, u, 1, huge, 2, 2), ER_VALUE);
    REFUSED(er_count_codes(NULL, 2, codes, 2, 1), ER_NULL);
    REFUSED(er_count_codes(l, 2, NULL, 2, 1), ER_NULL);
    REFUSED(er_count_codes(l, 0, codes, 2, 1), ER_SIZE);
    REFUSED(er_count_codes(l, UINT64_MAX, codes, 2, 1), ER_SIZE);
    REFUSED(er_count_codes(l, 2, codes, UINT64_MAX, 1), ER_SIZE);
    REFUSED(er_count_codes(l, 2, codes, 2, -1), ER_SIZE);
    REFUSED(er_count_codes(l, 1, codes, 2, 1), ER_RANGE);
    REFUSED(er_count_pairs(l, 2, 2, codes, 1, low, 1, 2), ER_RANGE);
    REFUSED(er_count_pairs(l, 8192, 8192, codes, 1, codes, 1, 2), ER_SIZE);
    REFUSED(er_fill_exponential(f, 1, key, 31, 0, 0), ER_SIZE);
    REFUSED(er_decode_grid(l, 2, codes, 1, u, 1, knots, 2, 2, 0, 0, 0), ER_VALUE);
    REFUSED(er_decode_grid(l, 2, codes, 1, u, 1, knots, 2, 2, INT64_MAX - 2, 1, 0), ER_VALUE);
    REFUSED(er_decode_grid(l, 2, codes, 1, u, 1, knots, 2, 2, 0, INT64_MAX / 2, 0), ER_VALUE);
    REFUSED(er_decode_grid(l, 2, codes, 1, u, 1, knots, 2, 2, INT64_MAX - 3, 1, 0), ER_OK);
    REFUSED(er_decode_f64(d, 2, codes, 1, u, 1, knots, 1 << 24, 1 << 24, 0), ER_SIZE);
    uint8_t packed[4] = {0};
    REFUSED(er_pack_bits(NULL, 1, codes, 1, 2, 1), ER_NULL);
    REFUSED(er_pack_bits(packed, 2, codes, 1, 2, 1), ER_SIZE);
    REFUSED(er_pack_bits(packed, 1, codes, 1, 2, 0), ER_SIZE);
    REFUSED(er_pack_bits(packed, 7, codes, 1, 2, 26), ER_SIZE);
    REFUSED(er_pack_bits(packed, 1, high, 1, 2, 1), ER_RANGE);
    REFUSED(er_pack_bits(packed, 1, low, 1, 2, 3), ER_RANGE);
    REFUSED(er_unpack_bits(NULL, 1, 2, 1, packed, 1), ER_NULL);
    REFUSED(er_unpack_bits(low, 1, 2, 1, packed, 2), ER_SIZE);
    packed[0] = 0x84;
    REFUSED(er_unpack_bits(low, 1, 2, 3, packed, 1), ER_VALUE);
    low[1] = -1;
    const uint32_t widths[2] = {2, 2}, none[2] = {2, 0}, wide[2] = {ER_CATEGORIES_MAX, 1};
    float logits[4] = {0}, nan[4] = {0, 0, 0, NAN}, top[4] = {0, INFINITY, 0, 0};
    float empty[4] = {0, 0, -INFINITY, -INFINITY}, below[2] = {0.5f, -0.5f}, forced[2] = {2, 3};
    REFUSED(er_categorical(NULL, 2, 1, logits, 4, u, 2, widths, 2, 1.0f), ER_NULL);
    REFUSED(er_categorical(codes, 2, 1, logits, 4, u, 2, NULL, 2, 1.0f), ER_NULL);
    REFUSED(er_categorical(NULL, 2, 0, NULL, 4, NULL, 2, widths, 2, 1.0f), ER_OK);
    REFUSED(er_categorical(codes, 1, 1, logits, 4, u, 2, widths, 2, 1.0f), ER_SIZE);
    REFUSED(er_categorical(codes, 2, 1, logits, 3, u, 2, widths, 2, 1.0f), ER_SIZE);
    REFUSED(er_categorical(codes, 2, 1, logits, 4, u, 2, none, 2, 1.0f), ER_SIZE);
    REFUSED(er_categorical(codes, 2, 1, logits, 4, u, 2, wide, 2, 1.0f), ER_SIZE);
    REFUSED(er_categorical(codes, 2, 1, logits, 4, u, 2, widths, 0, 1.0f), ER_SIZE);
    REFUSED(er_categorical(codes, 2, 1, logits, 4, u, 2, widths, 2, 0.0f), ER_VALUE);
    REFUSED(er_categorical(codes, 2, 1, logits, 4, u, 2, widths, 2, NAN), ER_VALUE);
    REFUSED(er_categorical(codes, 2, 1, nan, 4, u, 2, widths, 2, 1.0f), ER_VALUE);
    REFUSED(er_categorical(codes, 2, 1, top, 4, u, 2, widths, 2, 1.0f), ER_VALUE);
    REFUSED(er_categorical(codes, 2, 1, empty, 4, u, 2, widths, 2, 1.0f), ER_VALUE);
    REFUSED(er_categorical(codes, 2, 1, logits, 4, below, 2, widths, 2, 1.0f), ER_VALUE);
    REFUSED(er_categorical(codes, 2, 1, logits, 4, forced, 2, widths, 2, 1.0f), ER_RANGE);
    REFUSED(er_isa_select("z80"), ER_VALUE);
    expect(er_noise_new(key, 31) == NULL, "er_noise_new", "short seed");
    expect(er_noise_new(NULL, 32) == NULL, "er_noise_new", "no seed");
    er_noise_free(NULL);
    er_noise *noise = er_noise_new(key, 32);
    if (noise == NULL) {
        expect(0, "er_noise_new", "refusals");
        return;
    }
    REFUSED(er_noise_uniform_u64(NULL, NULL, 0), ER_NULL);
    REFUSED(er_noise_uniform_u64(noise, NULL, 1), ER_NULL);
    REFUSED(er_noise_wide(noise, l, UINT64_MAX), ER_SIZE);
    REFUSED(er_noise_base(noise, NULL, 1), ER_NULL);
    REFUSED(er_noise_bernoulli(noise, bits, 4, -0.1), ER_VALUE);
    REFUSED(er_noise_bernoulli(noise, bits, 4, 1.5), ER_VALUE);
    REFUSED(er_noise_bernoulli(noise, bits, 4, NAN), ER_VALUE);
    REFUSED(er_noise_bernoulli(noise, NULL, 0, 1.0), ER_OK);
    REFUSED(er_noise_discrete_gaussian(noise, NULL, 1, 1, 1), ER_NULL);
    REFUSED(er_noise_discrete_gaussian(noise, l, UINT64_MAX, 1, 1), ER_SIZE);
    REFUSED(er_noise_discrete_gaussian(noise, l, 1, 0, 1), ER_VALUE);
    REFUSED(er_noise_discrete_gaussian(noise, l, 1, 1, 0), ER_VALUE);
    REFUSED(er_noise_discrete_gaussian(noise, l, 1, UINT64_MAX, 1), ER_VALUE);
    REFUSED(er_noise_discrete_gaussian(noise, l, 1, 1, UINT64_MAX), ER_VALUE);
    REFUSED(er_noise_discrete_gaussian(noise, l, 1, ((uint64_t)1 << 24) + 1, 1), ER_VALUE);
    REFUSED(er_noise_discrete_laplace(noise, NULL, 1, 1, 1), ER_NULL);
    REFUSED(er_noise_discrete_laplace(noise, l, UINT64_MAX, 1, 1), ER_SIZE);
    REFUSED(er_noise_discrete_laplace(noise, l, 1, 0, 1), ER_VALUE);
    REFUSED(er_noise_discrete_laplace(noise, l, 1, 1, UINT64_MAX), ER_VALUE);
    REFUSED(er_noise_training(noise, NULL, 1, NULL, 1.0, 1.0), ER_NULL);
    REFUSED(er_noise_training(noise, f, 2, mask, 0.0, 1.0), ER_VALUE);
    REFUSED(er_noise_training(noise, f, 2, mask, 1.0, NAN), ER_VALUE);
    REFUSED(er_noise_training(noise, f, 2, mask, 1e300, 1e300), ER_VALUE);
    REFUSED(er_noise_training(noise, f, 2, mask, 1e-300, 1e-300), ER_VALUE);
    /* refused for the last entry: the first must not have moved. A masked NaN is no entry. */
    float sum[2] = {0.25f, NAN};
    REFUSED(er_noise_training(noise, sum, 2, NULL, 1.0, 1.0), ER_VALUE);
    expect(sum[0] == 0.25f, "er_noise_training", "nothing changed on refusal");
    REFUSED(er_noise_training(noise, sum, 2, mask, 1.0, 1.0), ER_OK);
    expect(sum[0] != 0.25f && sum[1] == 0.0f, "er_noise_training", "mask");
    float large[1] = {3e38f};
    REFUSED(er_noise_training(noise, large, 1, NULL, 1.0, 1.0), ER_VALUE);
    large[0] = INFINITY; /* also where the grid is so wide that the limit itself is infinite */
    REFUSED(er_noise_training(noise, large, 1, NULL, 1e150, 1e150), ER_VALUE);
    er_noise_free(noise);
#undef REFUSED
}

void check_rules(void)
{
    tie();
    splitting();
    refusals();
}
