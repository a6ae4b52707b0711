/* The private random stream, its plain uses, and noise for a gradient. */
#include "noise.h"

#include <float.h>
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "wide.h"

#define COUNT_LIMIT ((uint64_t)1 << 40)

/* memset before free may be dropped by the compiler; writes through volatile may not */
static void wipe(void *bytes, size_t n)
{
    volatile unsigned char *p = bytes;
    while (n-- != 0)
        *p++ = 0;
}

er_noise *er_noise_new(const uint8_t *seed, uint64_t seed_bytes)
{
    if (seed == NULL || seed_bytes != ER_KEY_BYTES)
        return NULL;
    er_noise *noise = malloc(sizeof *noise);
    if (noise == NULL)
        return NULL;
    noise->lanes = er_lanes_best();
    er_key_words(noise->key, seed);
    memset(noise->words, 0, sizeof noise->words);
    noise->next = ER_GROUP;
    return noise;
}

void er_noise_free(er_noise *noise)
{
    if (noise == NULL)
        return;
    wipe(noise, sizeof *noise);
    free(noise);
}

void er_noise_refill(er_noise *noise)
{
    noise->lanes->private_words(noise->words, noise->key);
    memcpy(noise->key, noise->words, sizeof noise->key);
    memset(noise->words, 0, sizeof noise->key);
    noise->next = 8;
}

static int check(const er_noise *noise, const void *out, uint64_t n)
{
    if (noise == NULL || (out == NULL && n != 0))
        return ER_NULL;
    return n <= COUNT_LIMIT ? ER_OK : ER_SIZE;
}

int er_noise_uniform_u64(er_noise *noise, uint64_t *out, uint64_t n)
{
    const int error = check(noise, out, n);
    for (uint64_t i = 0; error == ER_OK && i < n; i++)
        out[i] = er_word64(noise);
    return error;
}

int er_noise_bernoulli(er_noise *noise, uint8_t *out, uint64_t n, double p)
{
    const int error = check(noise, out, n);
    if (error != ER_OK)
        return error;
    if (!(p >= 0.0 && p <= 1.0))
        return ER_VALUE;
    if (p == 1.0) {
        if (n != 0)
            memset(out, 1, n);
        return ER_OK;
    }
    const uint64_t threshold = (uint64_t)(p * 0x1p64); /* exact: a power of two, below 2^64 */
    const uint32_t high = (uint32_t)(threshold >> 32), low = (uint32_t)threshold;
    for (uint64_t i = 0; i < n; i++) {
        /* the lower half of a 64-bit draw decides once in 2^32 */
        const uint32_t word = er_word(noise);
        out[i] = word != high ? word < high : er_word(noise) < low;
    }
    return ER_OK;
}

int er_noise_wide(er_noise *noise, int64_t *out, uint64_t n)
{
    const int error = check(noise, out, n);
    for (uint64_t i = 0; error == ER_OK && i < n; i++)
        out[i] = er_wide(noise);
    return error;
}

int er_noise_base(er_noise *noise, int64_t *out, uint64_t n)
{
    const int error = check(noise, out, n);
    for (uint64_t i = 0; error == ER_OK && i < n; i++)
        out[i] = er_base(noise);
    return error;
}

int er_noise_training(er_noise *noise, float *grad, uint64_t n, const uint8_t *mask,
                      double clip_norm, double noise_multiplier)
{
    const int error = check(noise, grad, n);
    if (error != ER_OK)
        return error;
    if (!(clip_norm > 0.0 && isfinite(clip_norm)) ||
        !(noise_multiplier > 0.0 && isfinite(noise_multiplier)))
        return ER_VALUE;
    const double grid = noise_multiplier * clip_norm / ER_SIGMA_INT;
    const double per_grid = 1.0 / grid;
    if (!(grid > 0.0 && isfinite(grid) && isfinite(per_grid)))
        return ER_VALUE;
    /* The largest gradient whose grid index still adds to the noise without leaving int64. Checked
     * for all first: on an error nothing may have been changed, nor a part been released. A wide
     * grid would let even infinity pass. */
    const double limit = fmin(0x1p62 * grid, FLT_MAX);
    for (uint64_t i = 0; i < n; i++)
        if ((mask == NULL || mask[i]) && !(fabs((double)grad[i]) <= limit))
            return ER_VALUE;
    for (uint64_t i = 0; i < n; i++) {
        if (mask != NULL && !mask[i]) {
            grad[i] = 0.0f;
            continue;
        }
        const int64_t index = (int64_t)rint((double)grad[i] * per_grid);
        grad[i] = (float)((double)(index + er_wide(noise)) * grid);
    }
    return ER_OK;
}
