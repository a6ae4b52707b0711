/* Codes to values: piecewise-linear inside a bin, between its knots. The loops over rows are in
 * columns_body.h, once per instruction set, and check codes and positions block by block: a pass of
 * its own over a column of a wide table, a cache line per row, would cost as much again. */
#include <math.h>
#include <stddef.h>

#include "../kernel.h"
#include "lanes.h"

#define ROWS_LIMIT ((uint64_t)1 << 40)
/* knots of a column: their numbers fit 32 bits */
#define KNOTS_LIMIT ((uint64_t)1 << 30)
#define DECIMALS_LIMIT 15

static int check(const void *out, uint64_t n, er_bins *b, uint64_t count, uint64_t per_bin)
{
    if (b->knots == NULL || (n != 0 && (out == NULL || b->codes == NULL || b->u == NULL)))
        return ER_NULL;
    if (n > ROWS_LIMIT || b->code_stride < 0 || b->code_stride > (int64_t)ER_CATEGORIES_MAX ||
        b->u_stride < 0 || b->u_stride > (int64_t)ER_CATEGORIES_MAX || count == 0 ||
        count > ER_CATEGORIES_MAX || per_bin == 0 || per_bin > ER_CATEGORIES_MAX ||
        count * per_bin > KNOTS_LIMIT)
        return ER_SIZE;
    b->count = (uint32_t)count;
    b->per_bin = (uint32_t)per_bin;
    for (uint64_t bin = 0; bin < count; bin++) {
        const double *k = b->knots + bin * per_bin;
        for (uint64_t q = 0; q < per_bin; q++) {
            if (!isfinite(k[q]))
                return ER_VALUE;
            if (q != 0 && k[q] < k[q - 1])
                return ER_ORDER;
        }
        if (!isfinite(k[per_bin - 1] - k[0]))
            return ER_VALUE;
    }
    return ER_OK;
}

/* Which error the rows have: looked up only once there is one. */
static int first_error(const er_bins *b, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        if ((uint32_t)b->codes[(int64_t)i * b->code_stride] > b->count)
            return ER_RANGE;
        const float x = b->u[(int64_t)i * b->u_stride];
        if (!(x >= 0.0f && x < 1.0f))
            return ER_VALUE;
    }
    return ER_OK;
}

#define ER_DECODE_ALL(FUNCTION)                                                                   \
    do {                                                                                          \
        const er_lanes *lanes = er_lanes_best();                                                  \
        for (uint64_t i = 0; i < n; i += ER_ROWS)                                                 \
            if (!lanes->FUNCTION(out + i, &b, i, n - i < ER_ROWS ? n - i : ER_ROWS))              \
                return first_error(&b, n);                                                        \
    } while (0)

static int set_decimals(er_bins *b, int decimals)
{
    if (decimals == ER_NO_ROUNDING)
        return ER_OK;
    if (decimals < -DECIMALS_LIMIT || decimals > DECIMALS_LIMIT)
        return ER_VALUE;
    b->rounding = decimals < 0 ? -1 : 1;
    b->scale = 1.0;
    for (int i = 0; i < (decimals < 0 ? -decimals : decimals); i++)
        b->scale *= 10.0;
    return ER_OK;
}

#define ER_DEFINE_DECODE(NAME, TYPE, FUNCTION)                                                    \
    int NAME(TYPE *out, uint64_t n, const int32_t *codes, int64_t code_stride, const float *u,    \
             int64_t u_stride, const double *knots, uint64_t bins, uint64_t knots_per_bin,        \
             int decimals)                                                                        \
    {                                                                                             \
        er_bins b = {.codes = codes, .u = u, .knots = knots, .code_stride = code_stride,          \
                     .u_stride = u_stride};                                                       \
        int error = check(out, n, &b, bins, knots_per_bin);                                       \
        if (error == ER_OK)                                                                       \
            error = set_decimals(&b, decimals);                                                   \
        if (error != ER_OK)                                                                       \
            return error;                                                                         \
        ER_DECODE_ALL(FUNCTION);                                                                  \
        return ER_OK;                                                                             \
    }

ER_DEFINE_DECODE(er_decode_f64, double, decode_f64)
ER_DEFINE_DECODE(er_decode_f32, float, decode_f32)

/* Whether origin + step * rank fits an int64 for a rank given as a double below 2^63 in size. */
static int on_grid(double rank, int64_t origin, int64_t step)
{
    const int64_t r = (int64_t)rank;
    if (r > INT64_MAX / step || r < INT64_MIN / step)
        return 0;
    const int64_t product = r * step;
    return product >= 0 ? origin <= INT64_MAX - product : origin >= INT64_MIN - product;
}

int er_decode_grid(int64_t *out, uint64_t n, const int32_t *codes, int64_t code_stride,
                   const float *u, int64_t u_stride, const double *knots, uint64_t bins,
                   uint64_t knots_per_bin, int64_t origin, int64_t step, int64_t missing)
{
    er_bins b = {.codes = codes, .u = u, .knots = knots, .code_stride = code_stride,
                 .u_stride = u_stride, .origin = origin, .step = step, .missing = missing};
    const int error = check(out, n, &b, bins, knots_per_bin);
    if (error != ER_OK)
        return error;
    if (step <= 0)
        return ER_VALUE;
    for (uint64_t bin = 0; bin < bins; bin++) {
        /* every double in -2^63 .. 2^63 (excluded) fits an int64, and so does its rounding */
        const double *k = knots + bin * knots_per_bin;
        const double low = floor(k[0]), high = ceil(k[knots_per_bin - 1]);
        if (low < -0x1p63 || high >= 0x1p63 || !on_grid(low, origin, step) ||
            !on_grid(high, origin, step))
            return ER_VALUE;
    }
    ER_DECODE_ALL(decode_i64);
    return ER_OK;
}

int er_decode_i64(int64_t *out, uint64_t n, const int32_t *codes, int64_t code_stride,
                  const float *u, int64_t u_stride, const double *knots, uint64_t bins,
                  uint64_t knots_per_bin)
{
    return er_decode_grid(out, n, codes, code_stride, u, u_stride, knots, bins, knots_per_bin, 0,
                          1, 0);
}
