/* Counts of codes and of pairs of codes. */
#include <stddef.h>
#include <string.h>

#include "../kernel.h"

#define ROWS_LIMIT ((uint64_t)1 << 40)

static int check_column(const int32_t *codes, uint64_t n, int64_t stride, uint64_t cardinality)
{
    if (codes == NULL && n != 0)
        return ER_NULL;
    if (n > ROWS_LIMIT || stride < 0 || stride > (int64_t)ER_CATEGORIES_MAX || cardinality == 0 ||
        cardinality > ER_CATEGORIES_MAX)
        return ER_SIZE;
    return ER_OK;
}

/* Codes are checked while they are counted: a column of a wide table is a cache line per row, and
 * a second pass would cost as much as the first. As unsigned, a negative code is larger than any
 * cardinality. */

int er_count_codes(int64_t *counts, uint64_t cardinality, const int32_t *codes, uint64_t n,
                   int64_t stride)
{
    if (counts == NULL)
        return ER_NULL;
    const int error = check_column(codes, n, stride, cardinality);
    if (error != ER_OK)
        return error;
    memset(counts, 0, cardinality * sizeof *counts);
    for (uint64_t i = 0; i < n; i++) {
        const uint32_t code = (uint32_t)codes[(int64_t)i * stride];
        if (code >= cardinality)
            return ER_RANGE;
        counts[code]++;
    }
    return ER_OK;
}

int er_count_pairs(int64_t *counts, uint64_t ka, uint64_t kb, const int32_t *a, int64_t a_stride,
                   const int32_t *b, int64_t b_stride, uint64_t n)
{
    if (counts == NULL)
        return ER_NULL;
    int error = check_column(a, n, a_stride, ka);
    if (error == ER_OK)
        error = check_column(b, n, b_stride, kb);
    if (error != ER_OK)
        return error;
    if (ka * kb > ER_CATEGORIES_MAX)
        return ER_SIZE;
    memset(counts, 0, ka * kb * sizeof *counts);
    for (uint64_t i = 0; i < n; i++) {
        const uint32_t first = (uint32_t)a[(int64_t)i * a_stride];
        const uint32_t second = (uint32_t)b[(int64_t)i * b_stride];
        if (first >= ka || second >= kb)
            return ER_RANGE;
        counts[first * kb + second]++;
    }
    return ER_OK;
}
