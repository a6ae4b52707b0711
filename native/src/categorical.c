/* Codes from logits: the checks; the loops are in categorical_body.h. */
#include <math.h>
#include <stddef.h>

#include "../kernel.h"
#include "lanes.h"

#define ROWS_LIMIT ((uint64_t)1 << 40)
#define COLUMNS_LIMIT ((uint64_t)1 << 20)

int er_categorical(int32_t *codes, int64_t code_stride, uint64_t rows, const float *logits,
                   int64_t logit_stride, const float *u, int64_t u_stride,
                   const uint32_t *widths, uint64_t columns, float temperature)
{
    if (widths == NULL || (rows != 0 && (codes == NULL || logits == NULL || u == NULL)))
        return ER_NULL;
    if (rows > ROWS_LIMIT || columns == 0 || columns > COLUMNS_LIMIT)
        return ER_SIZE;
    uint64_t total = 0;
    for (uint64_t column = 0; column < columns; column++) {
        if (widths[column] == 0 || widths[column] > ER_CATEGORIES_MAX)
            return ER_SIZE;
        total += widths[column];
    }
    if (total > ER_CATEGORIES_MAX || logit_stride < 0 || (uint64_t)logit_stride < total ||
        u_stride < 0 || (uint64_t)u_stride < columns || code_stride < 0 ||
        (uint64_t)code_stride < columns || logit_stride > (int64_t)ER_CATEGORIES_MAX ||
        u_stride > (int64_t)ER_CATEGORIES_MAX || code_stride > (int64_t)ER_CATEGORIES_MAX)
        return ER_SIZE;
    /* also keeps 1 / temperature finite and normal */
    if (!(temperature >= 0x1p-20f && temperature <= 0x1p20f))
        return ER_VALUE;
    const er_choice choice = {codes, logits,      u,           widths,   rows,
                              columns, code_stride, logit_stride, u_stride, 1.0f / temperature};
    return er_lanes_best()->categorical(&choice);
}
