/* Rows from a generator: from given noise, or drawn, sampled and decoded block by block. */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "../kernel.h"
#include "generator.h"

#define ROWS_LIMIT ((uint64_t)1 << 40)
/* Rows drawn together: their noise and codes stay in the second-level cache, and a fill of the
 * public stream starts at the border of one of its groups. */
#define PART 1024
#define SLOTS_LIMIT 65536

static void scratch_free(struct er_scratch *s)
{
    free(s->noise);
    free(s->codes);
    free(s->sums);
    free(s->h1);
    free(s->h2);
    free(s->weight);
}

static int scratch_new(struct er_scratch *s, const er_generator *g)
{
    /* reading and writing runs over the last word of units by up to three */
    const size_t words = (size_t)g->words + 4;
    const size_t sum = g->short_sums ? sizeof(int16_t) : sizeof(int32_t);
    s->noise = malloc(g->columns * ER_NET_ROWS * sizeof(float));
    s->codes = malloc(g->columns * ER_NET_ROWS * sizeof(int32_t));
    s->sums = malloc(ER_NET_ROWS * g->stride * sum);
    /* zero, because a word not yet due is read, though its weights are zero */
    s->h1 = calloc(words * ER_NET_ROWS, sizeof(uint32_t));
    s->h2 = calloc(words * ER_NET_ROWS, sizeof(uint32_t));
    s->weight = malloc(g->widest * ER_NET_ROWS * sizeof(float));
    if (s->noise != NULL && s->codes != NULL && s->sums != NULL && s->h1 != NULL &&
        s->h2 != NULL && s->weight != NULL)
        return ER_OK;
    scratch_free(s);
    return ER_MEMORY;
}

static int check_noise(const er_generator *g, const float *noise, uint64_t rows)
{
    for (uint64_t r = 0; r < rows; r++, noise += g->columns) {
        int good = 1;
        for (uint64_t c = 0; c < g->columns; c++)
            good &= noise[c] >= 0.0f && noise[c] < (float)g->cardinality[c] + 1.0f;
        if (!good) /* NaN fails both comparisons */
            return ER_VALUE;
    }
    return ER_OK;
}

/* Noise of `rows` <= ER_NET_ROWS rows into lanes; the lanes left over get 0. */
static void into_lanes(const er_generator *g, struct er_scratch *s, const float *noise,
                       uint64_t rows)
{
    for (uint64_t c = 0; c < g->columns; c++) {
        float *lanes = s->noise + c * ER_NET_ROWS;
        for (uint64_t r = 0; r < rows; r++)
            lanes[r] = noise[r * g->columns + c];
        for (uint64_t r = rows; r < ER_NET_ROWS; r++)
            lanes[r] = 0.0f;
    }
}

int er_generator_codes(const er_generator *g, int32_t *codes, const float *noise, uint64_t rows)
{
    if (g == NULL || (rows != 0 && (codes == NULL || noise == NULL)))
        return ER_NULL;
    if (rows > ROWS_LIMIT)
        return ER_SIZE;
    int error = check_noise(g, noise, rows);
    struct er_scratch s;
    if (error == ER_OK)
        error = scratch_new(&s, g);
    if (error != ER_OK)
        return error;
    for (uint64_t start = 0; start < rows; start += ER_NET_ROWS) {
        const uint64_t n = rows - start < ER_NET_ROWS ? rows - start : ER_NET_ROWS;
        into_lanes(g, &s, noise + start * g->columns, n);
        g->network->block(g, &s);
        int32_t *out = codes + start * g->columns;
        for (uint64_t c = 0; c < g->columns; c++)
            for (uint64_t r = 0; r < n; r++)
                out[r * g->columns + c] = s.codes[c * ER_NET_ROWS + r];
    }
    scratch_free(&s);
    return ER_OK;
}

/* ---- decoding ---- */

static int check_output(const er_output *o, int32_t cardinality, uint64_t rows)
{
    if (o->kind == ER_OUT_CODES || o->kind == ER_OUT_NOTHING)
        return rows != 0 && o->out == NULL && o->kind == ER_OUT_CODES ? ER_NULL : ER_OK;
    if (o->table == NULL || (rows != 0 && o->out == NULL))
        return ER_NULL;
    if (o->bins == 0 || o->bins > ER_CATEGORIES_MAX || o->slots == 0 || o->slots > SLOTS_LIMIT)
        return ER_SIZE;
    switch (o->kind) {
    case ER_OUT_BYTES:
        return o->slots == 1 && o->bins >= (uint64_t)cardinality ? ER_OK : ER_SIZE;
    case ER_OUT_POINTS:
        /* a power of two, so that the place of a uniform number is exact in float32 */
        return (o->slots & (o->slots - 1)) == 0 && o->bins >= (uint64_t)cardinality ? ER_OK
                                                                                      : ER_SIZE;
    case ER_OUT_LINEAR_F64:
    case ER_OUT_LINEAR_I64:
        return o->bins + 1 >= (uint64_t)cardinality ? ER_OK : ER_SIZE;
    default:
        return ER_VALUE;
    }
}

static int decode(const er_output *o, int32_t cardinality, const int32_t *codes, const float *u,
                  uint64_t start, uint64_t n)
{
    if (o->missing != NULL)
        for (uint64_t r = 0; r < n; r++)
            o->missing[start + r] = codes[r] == cardinality - 1;
    switch (o->kind) {
    case ER_OUT_CODES:
        memcpy((int32_t *)o->out + start, codes, n * sizeof *codes);
        return ER_OK;
    case ER_OUT_BYTES:
        for (uint64_t r = 0; r < n; r++)
            ((int8_t *)o->out)[start + r] = ((const int8_t *)o->table)[codes[r]];
        return ER_OK;
    case ER_OUT_POINTS: {
        /* eight bytes each, doubles or integers alike */
        const uint64_t *table = o->table, slots = o->slots;
        uint64_t *out = (uint64_t *)o->out + start;
        if (slots == 1)
            for (uint64_t r = 0; r < n; r++)
                out[r] = table[codes[r]];
        else
            for (uint64_t r = 0; r < n; r++)
                out[r] = table[(uint64_t)codes[r] * slots +
                               (uint64_t)(int32_t)(u[r] * (float)(int32_t)slots)];
        return ER_OK;
    }
    case ER_OUT_LINEAR_F64:
        return er_decode_f64((double *)o->out + start, n, codes, 1, u, 1, o->table, o->bins,
                             o->slots, ER_NO_ROUNDING);
    case ER_OUT_LINEAR_I64:
        return er_decode_i64((int64_t *)o->out + start, n, codes, 1, u, 1, o->table, o->bins,
                             o->slots);
    default:
        return ER_OK;
    }
}

static int needs_uniform(const er_output *o)
{
    return o->kind == ER_OUT_LINEAR_F64 || o->kind == ER_OUT_LINEAR_I64 ||
           (o->kind == ER_OUT_POINTS && o->slots != 1);
}

/* ---- drawing ---- */

typedef struct part {
    float *noise;   /* [PART][columns] */
    float *u;       /* [PART] */
    int32_t *codes; /* [columns][PART] */
} part;

static int check_draw(const er_generator *g, const er_draw *d)
{
    if (g == NULL || d == NULL || d->key == NULL || (d->forced_columns != 0 && d->forced == NULL))
        return ER_NULL;
    /* element numbers of the noise stay within what the public stream allows */
    if (d->key_bytes != ER_KEY_BYTES || d->rows > ROWS_LIMIT || d->offset > ROWS_LIMIT ||
        d->forced_columns > g->columns)
        return ER_SIZE;
    for (uint64_t c = 0; c < d->forced_columns; c++)
        for (uint64_t r = 0; r < d->rows; r++) {
            const int32_t code = d->forced[c * d->rows + r];
            if (code < 0 || code >= g->cardinality[c])
                return ER_RANGE;
        }
    return ER_OK;
}

/* Codes of rows start .. start + n - 1 of a draw, n <= PART. */
static int draw_part(const er_generator *g, const er_draw *d, struct er_scratch *s, part *p,
                     uint64_t start, uint64_t n)
{
    const int error = er_fill_uniform(p->noise, n * g->columns, d->key, d->key_bytes, d->stream,
                                      (d->offset + start) * g->columns);
    if (error != ER_OK)
        return error;
    for (uint64_t first = 0; first < n; first += ER_NET_ROWS) {
        const uint64_t rows = n - first < ER_NET_ROWS ? n - first : ER_NET_ROWS;
        into_lanes(g, s, p->noise + first * g->columns, rows);
        for (uint64_t c = 0; c < d->forced_columns; c++)
            for (uint64_t r = 0; r < rows; r++)
                s->noise[c * ER_NET_ROWS + r] =
                    (float)(d->forced[c * d->rows + start + first + r] + 1);
        g->network->block(g, s);
        for (uint64_t c = 0; c < g->columns; c++)
            memcpy(p->codes + c * PART + first, s->codes + c * ER_NET_ROWS,
                   rows * sizeof *p->codes);
    }
    return ER_OK;
}

static int decode_part(const er_generator *g, const er_draw *d, const er_output *outputs,
                       part *p, uint64_t start, uint64_t n)
{
    for (uint64_t c = 0; c < g->columns; c++) {
        int error = ER_OK;
        if (needs_uniform(&outputs[c]))
            error = er_fill_uniform(p->u, n, d->key, d->key_bytes, d->decode_stream + c,
                                    d->offset + start);
        if (error == ER_OK)
            error = decode(&outputs[c], g->cardinality[c], p->codes + c * PART, p->u, start, n);
        if (error != ER_OK)
            return error;
    }
    return ER_OK;
}

int er_generator_rows(const er_generator *g, const er_draw *d, int32_t *codes,
                      const er_output *outputs, uint64_t output_count)
{
    int error = check_draw(g, d);
    if (error != ER_OK)
        return error;
    if (codes == NULL && outputs == NULL && d->rows != 0)
        return ER_NULL;
    if (outputs != NULL) {
        if (output_count != g->columns)
            return ER_SIZE;
        for (uint64_t c = 0; c < g->columns; c++) {
            error = check_output(&outputs[c], g->cardinality[c], d->rows);
            if (error != ER_OK)
                return error;
        }
    }
    struct er_scratch s;
    error = scratch_new(&s, g);
    if (error != ER_OK)
        return error;
    part p = {malloc(PART * g->columns * sizeof(float)), malloc(PART * sizeof(float)),
              malloc(PART * g->columns * sizeof(int32_t))};
    error = p.noise != NULL && p.u != NULL && p.codes != NULL ? ER_OK : ER_MEMORY;
    uint64_t n = 0;
    for (uint64_t start = 0; start < d->rows && error == ER_OK; start += n) {
        /* the first part ends at a multiple of PART of the whole sequence */
        const uint64_t whole = PART - (d->offset + start) % PART;
        n = d->rows - start < whole ? d->rows - start : whole;
        error = draw_part(g, d, &s, &p, start, n);
        if (error == ER_OK && outputs != NULL)
            error = decode_part(g, d, outputs, &p, start, n);
        for (uint64_t c = 0; c < g->columns && error == ER_OK && codes != NULL; c++)
            for (uint64_t r = 0; r < n; r++)
                codes[(start + r) * g->columns + c] = p.codes[c * PART + r];
    }
    free(p.noise);
    free(p.u);
    free(p.codes);
    scratch_free(&s);
    return error;
}
