/* Counts of codes and of pairs of codes. */
#include <stddef.h>
#include <string.h>

#include "../kernel.h"
#include "lanes.h"

#define ROWS_LIMIT ((uint64_t)1 << 40)
/* Up to this many cells several tables are kept on the stack: equal codes in neighbouring rows
 * would otherwise wait for each other's increment. 4 tables of 4 KB stay in the first cache. */
#define SMALL_CELLS 1024
#define TABLES 4
/* rows after which 32-bit counts are added to the 64-bit ones; a multiple of ER_ROWS */
#define ROWS_OF_TABLES ((uint64_t)1 << 31)

typedef struct columns {
    const int32_t *a, *b; /* b is NULL when codes of one column are counted */
    int64_t a_stride, b_stride;
    uint32_t ka, kb;
} columns;

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
static int cells_of(uint32_t cells[ER_ROWS], const er_lanes *lanes, const columns *c,
                    uint64_t first, uint64_t n)
{
    const int32_t *a = c->a + (int64_t)first * c->a_stride;
    const int32_t *b = c->b == NULL ? NULL : c->b + (int64_t)first * c->b_stride;
    return lanes->cells(cells, a, c->a_stride, c->ka, b, c->b_stride, c->kb, n);
}

static int count_few_cells(int64_t *counts, const columns *c, uint64_t n)
{
    const er_lanes *lanes = er_lanes_best();
    const uint64_t count = (uint64_t)c->ka * c->kb;
    uint32_t tables[TABLES][SMALL_CELLS], cells[ER_ROWS];
    for (uint64_t start = 0; start < n; start += ROWS_OF_TABLES) {
        const uint64_t end = n - start < ROWS_OF_TABLES ? n : start + ROWS_OF_TABLES;
        memset(tables, 0, sizeof tables);
        for (uint64_t first = start; first < end; first += ER_ROWS) {
            const uint64_t rows = end - first < ER_ROWS ? end - first : ER_ROWS;
            if (!cells_of(cells, lanes, c, first, rows))
                return ER_RANGE;
            uint64_t i = 0;
            for (; i + TABLES <= rows; i += TABLES) {
                uint64_t two, more; /* two cells in a load; which table counts one is no matter */
                memcpy(&two, &cells[i], sizeof two);
                memcpy(&more, &cells[i + 2], sizeof more);
                tables[0][(uint32_t)two]++;
                tables[1][two >> 32]++;
                tables[2][(uint32_t)more]++;
                tables[3][more >> 32]++;
            }
            for (; i < rows; i++)
                tables[0][cells[i]]++;
        }
        for (uint64_t cell = 0; cell < count; cell++)
            counts[cell] += (int64_t)tables[0][cell] + tables[1][cell] + tables[2][cell] +
                            tables[3][cell];
    }
    return ER_OK;
}

static int count_cells(int64_t *counts, const columns *c, uint64_t n)
{
    memset(counts, 0, (uint64_t)c->ka * c->kb * sizeof *counts);
    if ((uint64_t)c->ka * c->kb <= SMALL_CELLS)
        return count_few_cells(counts, c, n);
    const er_lanes *lanes = er_lanes_best();
    uint32_t cells[ER_ROWS];
    for (uint64_t first = 0; first < n; first += ER_ROWS) {
        const uint64_t rows = n - first < ER_ROWS ? n - first : ER_ROWS;
        if (!cells_of(cells, lanes, c, first, rows))
            return ER_RANGE;
        for (uint64_t i = 0; i < rows; i++)
            counts[cells[i]]++;
    }
    return ER_OK;
}

int er_count_codes(int64_t *counts, uint64_t cardinality, const int32_t *codes, uint64_t n,
                   int64_t stride)
{
    if (counts == NULL)
        return ER_NULL;
    const int error = check_column(codes, n, stride, cardinality);
    if (error != ER_OK)
        return error;
    const columns c = {codes, NULL, stride, 0, (uint32_t)cardinality, 1};
    return count_cells(counts, &c, n);
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
    const columns c = {a, b, a_stride, b_stride, (uint32_t)ka, (uint32_t)kb};
    return count_cells(counts, &c, n);
}
