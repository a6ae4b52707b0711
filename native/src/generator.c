/* Weights into the form that the block loops read, and the choice of the loops. */
#include "generator.h"

#include <float.h>
#include <stdlib.h>
#include <string.h>

#include "../kernel.h"
#include "isa.h"

#define COLUMNS_LIMIT 1024
#define HIDDEN_LIMIT 1024
#define LOGITS_LIMIT 65536
#define BIAS_LIMIT (1 << 24)  /* beyond it float32 stops counting exactly */
#define SCALE_LIMIT 0x1p60f   /* no product of a scale and a sum can overflow */
/* columns whose first-layer weights, at most 128 in size, cannot leave 16 bits */
#define SHORT_COLUMNS 255

/* Slowest first. */
const er_network *const er_networks[ER_NETWORKS] = {
    &er_network_portable,
#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
    &er_network_sse2,
#if ER_NETWORK_FILES
    &er_network_avx2,
    &er_network_avxvnni,
    &er_network_avx512,
    &er_network_avx512vnni,
#endif
#elif defined(__aarch64__)
    &er_network_neon,
#if defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
    &er_network_dotprod,
#endif
#endif
};

const char *er_generator_isa(uint64_t index)
{
    for (int i = ER_NETWORKS - 1; i >= 0; i--)
        if (er_networks[i] != NULL && er_networks[i]->usable() && index-- == 0)
            return er_networks[i]->name;
    return NULL;
}

static const er_network *choose(const char *isa)
{
    for (int i = ER_NETWORKS - 1; i >= 0; i--)
        if (er_networks[i] != NULL && (isa == NULL || strcmp(isa, er_networks[i]->name) == 0) &&
            er_networks[i]->usable())
            return er_networks[i];
    return NULL;
}

void er_generator_free(er_generator *g)
{
    if (g == NULL)
        return;
    free(g->cardinality);
    free(g->offset);
    free(g->seen);
    free(g->block3);
    free(g->channel3);
    free(g->w1);
    free(g->rescale1);
    free(g->shift1);
    free(g->rescale2);
    free(g->skip2);
    free(g->b2);
    free(g->w2);
    free(g->w3);
    free(g->b3);
    free(g->scale3);
    free(g);
}

static int fine(const float *x, uint64_t n, float least)
{
    for (uint64_t i = 0; i < n; i++)
        if (!(x[i] >= least && x[i] < SCALE_LIMIT)) /* refuses NaN too */
            return 0;
    return 1;
}

static int small(const int32_t *x, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++)
        if (x[i] > BIAS_LIMIT || x[i] < -BIAS_LIMIT)
            return 0;
    return 1;
}

/* The layout: degrees spread evenly over the columns but the last, units sorted by degree. */
static uint64_t degree(const er_generator *g, uint64_t unit)
{
    return unit * (g->columns > 1 ? g->columns - 1 : 1) / g->hidden;
}

/* Sizes; returns the numbers of logits, of words of w3 and of padded logits. */
static void lay_out(er_generator *g, const int32_t *cardinality, uint64_t *logits,
                    uint64_t *words3, uint64_t *channels3)
{
    uint64_t unit = 0;
    *logits = *words3 = *channels3 = 0;
    for (uint64_t c = 0; c < g->columns; c++) {
        const uint64_t k = (uint64_t)cardinality[c];
        const uint64_t padded = (k + ER_UNITS - 1) / ER_UNITS * ER_UNITS;
        while (unit < g->hidden && degree(g, unit) < c)
            unit++;
        g->cardinality[c] = cardinality[c];
        g->offset[c] = *logits;
        g->seen[c] = c == 0 ? 0 : unit;
        g->block3[c] = *words3;
        g->channel3[c] = *channels3;
        *logits += k;
        *words3 += padded * ((g->seen[c] + 7) / 8 * 2);
        *channels3 += padded;
        g->widest = padded > g->widest ? padded : g->widest;
    }
}

static uint32_t in_word(uint32_t word, int8_t weight, uint64_t place)
{
    return word | (uint32_t)(uint8_t)weight << 8 * place;
}

/* Masked weights are left out: the loops rely on it, see generator_body.h. */
static void pack(er_generator *g, const er_tensors *t, uint64_t logits)
{
    const uint64_t hidden = g->hidden;
    for (uint64_t c = 0; c < g->columns; c++)
        for (int32_t k = 0; k < g->cardinality[c]; k++) {
            const uint64_t v = g->offset[c] + (uint64_t)k;
            for (uint64_t u = 0; u < hidden; u++)
                if (degree(g, u) >= c)
                    g->w1[v * g->stride + u] = t->w1[v * hidden + u];
        }
    for (uint64_t from = 0; from < hidden; from++)
        for (uint64_t to = 0; to < hidden; to++) {
            uint32_t *w = g->w2 + ((to / ER_UNITS * g->words + from / ER_UNITS) * ER_UNITS) +
                          to % ER_UNITS;
            if (degree(g, from) <= degree(g, to))
                *w = in_word(*w, t->w2[from * hidden + to], from % ER_UNITS);
        }
    for (uint64_t c = 0; c < g->columns; c++) {
        const uint64_t words = (g->seen[c] + 7) / 8 * 2;
        for (uint64_t k = 0; k < (uint64_t)g->cardinality[c]; k++) {
            const uint64_t v = g->offset[c] + k;
            uint32_t *w = g->w3 + g->block3[c] + k / ER_UNITS * words * ER_UNITS + k % ER_UNITS;
            for (uint64_t u = 0; u < g->seen[c]; u++)
                w[u / ER_UNITS * ER_UNITS] =
                    in_word(w[u / ER_UNITS * ER_UNITS], t->w3[u * logits + v], u % ER_UNITS);
            g->b3[g->channel3[c] + k] = t->b3[v];
            g->scale3[g->channel3[c] + k] = t->scale3[v] * 1.44269504f; /* log2(e) */
        }
    }
    memcpy(g->rescale1, t->rescale1, hidden * sizeof(float));
    memcpy(g->shift1, t->shift1, hidden * sizeof(float));
    memcpy(g->rescale2, t->rescale2, hidden * sizeof(float));
    memcpy(g->skip2, t->skip2, hidden * sizeof(float));
    memcpy(g->b2, t->b2, hidden * sizeof(int32_t));
}

int er_generator_new(er_generator **out, const char *isa, const int32_t *cardinalities,
                     uint64_t columns, uint64_t hidden, const er_tensors *t)
{
    if (out == NULL || cardinalities == NULL || t == NULL || t->w1 == NULL ||
        t->rescale1 == NULL || t->shift1 == NULL || t->w2 == NULL || t->b2 == NULL ||
        t->rescale2 == NULL || t->skip2 == NULL || t->w3 == NULL || t->b3 == NULL ||
        t->scale3 == NULL)
        return ER_NULL;
    if (columns == 0 || columns > COLUMNS_LIMIT || hidden == 0 || hidden > HIDDEN_LIMIT)
        return ER_SIZE;
    uint64_t logits = 0;
    for (uint64_t c = 0; c < columns; c++) {
        if (cardinalities[c] < 1 || cardinalities[c] > LOGITS_LIMIT)
            return ER_SIZE;
        logits += (uint64_t)cardinalities[c];
    }
    if (logits > LOGITS_LIMIT || logits != t->logits)
        return ER_SIZE;
    if (!fine(t->rescale1, hidden, 0.0f) || !fine(t->shift1, hidden, -SCALE_LIMIT) ||
        !fine(t->rescale2, hidden, 0.0f) || !fine(t->skip2, hidden, 0.0f) ||
        !fine(t->scale3, logits, 0.0f) || !small(t->b2, hidden) || !small(t->b3, logits))
        return ER_VALUE;
    const er_network *network = choose(isa);
    if (network == NULL)
        return ER_ISA;
    er_generator *g = calloc(1, sizeof *g);
    if (g == NULL)
        return ER_MEMORY;
    g->network = network;
    g->columns = columns;
    g->hidden = hidden;
    g->stride = (hidden + ER_WIDE - 1) / ER_WIDE * ER_WIDE + ER_WIDE;
    g->words = (hidden + 7) / 8 * 2;
    g->short_sums = columns <= SHORT_COLUMNS;
    uint64_t words3 = 0, channels3 = 0;
    g->cardinality = calloc(columns, sizeof *g->cardinality);
    g->offset = calloc(columns, sizeof *g->offset);
    g->seen = calloc(columns, sizeof *g->seen);
    g->block3 = calloc(columns, sizeof *g->block3);
    g->channel3 = calloc(columns, sizeof *g->channel3);
    if (g->cardinality == NULL || g->offset == NULL || g->seen == NULL || g->block3 == NULL ||
        g->channel3 == NULL)
        goto no_memory;
    lay_out(g, cardinalities, &logits, &words3, &channels3);
    g->w1 = calloc(logits * g->stride, sizeof *g->w1);
    g->rescale1 = calloc(g->stride, sizeof *g->rescale1);
    g->shift1 = calloc(g->stride, sizeof *g->shift1);
    g->rescale2 = calloc(g->stride, sizeof *g->rescale2);
    g->skip2 = calloc(g->stride, sizeof *g->skip2);
    g->b2 = calloc(g->stride, sizeof *g->b2);
    g->w2 = calloc(g->words * g->words * ER_UNITS, sizeof *g->w2);
    g->w3 = calloc(words3 + 1, sizeof *g->w3); /* a single column has no weights */
    g->b3 = calloc(channels3, sizeof *g->b3);
    g->scale3 = calloc(channels3, sizeof *g->scale3);
    if (g->w1 == NULL || g->rescale1 == NULL || g->shift1 == NULL || g->rescale2 == NULL ||
        g->skip2 == NULL || g->b2 == NULL || g->w2 == NULL || g->w3 == NULL || g->b3 == NULL ||
        g->scale3 == NULL)
        goto no_memory;
    pack(g, t, logits);
    *out = g;
    return ER_OK;
no_memory:
    er_generator_free(g);
    return ER_MEMORY;
}
