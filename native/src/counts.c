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
    for (uint64_t i = 0; i < n; i++) {
        /* as unsigned, a negative code is larger than any cardinality */
        if ((uint32_t)codes[(int64_t)i * stride] >= (uint32_t)cardinality)
            return ER_RANGE;
    }
    return ER_OK;
}

int er_count_codes(int64_t *counts, uint64_t cardinality, const int32_t *codes, uint64_t n,
                   int64_t stride)
{
    if (counts == NULL)
        return ER_NULL;
    const int code = check_column(codes, n, stride, cardinality);
    if (code != ER_OK)
        return code;
    memset(counts, 0, cardinality * sizeof *counts);
    for (uint64_t i = 0; i < n; i++)
        counts[codes[(int64_t)i * stride]]++;
    return ER_OK;
}

int er_count_pairs(int64_t *counts, uint64_t ka, uint64_t kb, const int32_t *a, int64_t a_stride,
                   const int32_t *b, int64_t b_stride, uint64_t n)
{
    if (counts == NULL)
        return ER_NULL;
    int code = check_column(a, n, a_stride, ka);
    if (code == ER_OK)
        code = check_column(b, n, b_stride, kb);
    if (code != ER_OK)
        return code;
    if (ka * kb > ER_CATEGORIES_MAX)
        return ER_SIZE;
    memset(counts, 0, ka * kb * sizeof *counts);
    for (uint64_t i = 0; i < n; i++)
        counts[(uint64_t)a[(int64_t)i * a_stride] * kb + (uint64_t)b[(int64_t)i * b_stride]]++;
    return ER_OK;
}
