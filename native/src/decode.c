/* Codes to values: piecewise-linear inside a bin, between its knots. */
#include <math.h>
#include <stddef.h>

#include "../kernel.h"

#define ROWS_LIMIT ((uint64_t)1 << 40)
#define DECIMALS_LIMIT 15

typedef struct bins {
    const double *knots;
    uint64_t count, per_bin;
} bins;

static int check(const void *out, uint64_t n, const int32_t *codes, int64_t code_stride,
                 const float *u, int64_t u_stride, const bins *b)
{
    if (b->knots == NULL || (n != 0 && (out == NULL || codes == NULL || u == NULL)))
        return ER_NULL;
    if (n > ROWS_LIMIT || code_stride < 0 || code_stride > (int64_t)ER_CATEGORIES_MAX ||
        u_stride < 0 || u_stride > (int64_t)ER_CATEGORIES_MAX || b->count == 0 ||
        b->count > ER_CATEGORIES_MAX || b->per_bin == 0 || b->per_bin > ER_CATEGORIES_MAX)
        return ER_SIZE;
    for (uint64_t bin = 0; bin < b->count; bin++) {
        const double *k = b->knots + bin * b->per_bin;
        for (uint64_t q = 0; q < b->per_bin; q++) {
            if (!isfinite(k[q]))
                return ER_VALUE;
            if (q != 0 && k[q] < k[q - 1])
                return ER_ORDER;
        }
        if (!isfinite(k[b->per_bin - 1] - k[0]))
            return ER_VALUE;
    }
    for (uint64_t i = 0; i < n; i++) {
        const int32_t code = codes[(int64_t)i * code_stride];
        if (code < 0 || (uint64_t)code > b->count)
            return ER_RANGE;
        const float x = u[(int64_t)i * u_stride];
        if (!(x >= 0.0f && x < 1.0f))
            return ER_VALUE;
    }
    return ER_OK;
}

/* a + t (b - a) may round above b, and rounding to decimals may leave the bin: both are clamped */
static inline double clamp(double x, double low, double high)
{
    x = x < low ? low : x;
    return x > high ? high : x;
}

static inline double interpolate(const bins *b, int32_t code, float u)
{
    const double *k = b->knots + (uint64_t)code * b->per_bin;
    if (b->per_bin == 1)
        return k[0];
    const double x = (double)u * (double)(b->per_bin - 1);
    const uint64_t q = (uint64_t)x; /* below per_bin - 1, as u < 1 and the product is exact */
    return clamp(k[q] + (x - (double)q) * (k[q + 1] - k[q]), k[q], k[q + 1]);
}

static inline double round_decimals(double x, double scale, int decimals)
{
    /* rint: half to even. Dividing (not multiplying by 10^-decimals) gives the double that is
     * nearest to the decimal number. */
    const double rounded = decimals >= 0 ? rint(x * scale) / scale : rint(x / scale) * scale;
    return isfinite(rounded) ? rounded : x;
}

#define ER_DEFINE_DECODE(NAME, TYPE)                                                              \
    int NAME(TYPE *out, uint64_t n, const int32_t *codes, int64_t code_stride, const float *u,    \
             int64_t u_stride, const double *knots, uint64_t bin_count, uint64_t knots_per_bin,   \
             int decimals)                                                                        \
    {                                                                                             \
        const bins b = {knots, bin_count, knots_per_bin};                                         \
        const int error = check(out, n, codes, code_stride, u, u_stride, &b);                     \
        if (error != ER_OK)                                                                       \
            return error;                                                                         \
        const int rounding = decimals != ER_NO_ROUNDING;                                          \
        if (rounding && (decimals < -DECIMALS_LIMIT || decimals > DECIMALS_LIMIT))                \
            return ER_VALUE;                                                                      \
        double scale = 1.0;                                                                       \
        for (int i = 0; rounding && i < (decimals < 0 ? -decimals : decimals); i++)               \
            scale *= 10.0;                                                                        \
        for (uint64_t i = 0; i < n; i++) {                                                        \
            const int32_t code = codes[(int64_t)i * code_stride];                                 \
            if ((uint64_t)code == bin_count) {                                                    \
                out[i] = (TYPE)NAN;                                                               \
                continue;                                                                         \
            }                                                                                     \
            const double *k = knots + (uint64_t)code * knots_per_bin;                             \
            double x = interpolate(&b, code, u[(int64_t)i * u_stride]);                           \
            if (rounding)                                                                         \
                x = clamp(round_decimals(x, scale, decimals), k[0], k[knots_per_bin - 1]);        \
            out[i] = (TYPE)x;                                                                     \
        }                                                                                         \
        return ER_OK;                                                                             \
    }

ER_DEFINE_DECODE(er_decode_f64, double)
ER_DEFINE_DECODE(er_decode_f32, float)

int er_decode_i64(int64_t *out, uint64_t n, const int32_t *codes, int64_t code_stride,
                  const float *u, int64_t u_stride, const double *knots, uint64_t bin_count,
                  uint64_t knots_per_bin)
{
    const bins b = {knots, bin_count, knots_per_bin};
    const int error = check(out, n, codes, code_stride, u, u_stride, &b);
    if (error != ER_OK)
        return error;
    for (uint64_t bin = 0; bin < bin_count; bin++) {
        /* every double below 2^63 in magnitude fits an int64 */
        const double *k = knots + bin * knots_per_bin;
        if (k[0] < -0x1p63 || k[knots_per_bin - 1] >= 0x1p63)
            return ER_VALUE;
    }
    for (uint64_t i = 0; i < n; i++) {
        const int32_t code = codes[(int64_t)i * code_stride];
        if ((uint64_t)code == bin_count) {
            out[i] = 0;
            continue;
        }
        const double *k = knots + (uint64_t)code * knots_per_bin;
        double x = rint(interpolate(&b, code, u[(int64_t)i * u_stride]));
        const double low = ceil(k[0]), high = floor(k[knots_per_bin - 1]);
        if (low <= high) /* a bin without any integer inside keeps the nearest one */
            x = clamp(x, low, high);
        out[i] = (int64_t)x;
    }
    return ER_OK;
}
