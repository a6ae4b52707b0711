/* Included by generator_*.c, once per instruction set, with ER_NETWORK_OBJECT, ER_NETWORK_NAME and
 * ER_NETWORK_USABLE set, after the product of that instruction set:
 *
 *     static void products(int32_t *out, const uint32_t *h, const uint32_t *w, uint64_t words,
 *                          const int32_t *bias);
 *
 *     out[j][row] = bias[j] + the sum over words i of the four products h[i][row] . w[i][j]
 *
 * for ER_UNITS outputs j and ER_NET_ROWS rows; activations are 0..127, so that two products fit 16
 * bits. Integer sums are the same in every order. Everything else is plain C99 over ER_NET_ROWS lanes
 * with every float operation written out and none fused (-ffp-contract=off): the same codes on
 * every processor.
 *
 * Units are handled in words of four. A word may hold units that are not due yet, or were computed
 * before: the first are meaningless and meet only weights that are zero until they are due, the
 * second come out as they were, because nothing is added to a unit after it is due.
 */

/* 2^x for x <= 0, and 0 < 2^x even where x is far below: never quite zero, as the cumulative sums
 * do not need it. Adding 1.5 * 2^23 rounds x to the integer n in the sum's lowest bits; the
 * polynomial is the best one of degree 5 with p(0) = 1 for 2^f on [-1/2, 1/2], relative error
 * 1.1e-7 with these coefficients. */
static inline float exp2_down(float x)
{
    x = x < -126.0f ? -126.0f : x;
    const float shifted = x + 0x1.8p23f;
    const float f = x - (shifted - 0x1.8p23f);
    uint32_t n, bits;
    memcpy(&n, &shifted, sizeof n);
    float p = 0x1.5bba14p-10f;
    p = p * f + 0x1.3cea88p-7f;
    p = p * f + 0x1.c6b752p-5f;
    p = p * f + 0x1.ebf9bcp-3f;
    p = p * f + 0x1.62e42ap-1f;
    p = p * f + 1.0f;
    memcpy(&bits, &p, sizeof bits);
    /* the bits of 1.5 * 2^23 above n leave the word */
    bits += n << 23;
    memcpy(&p, &bits, sizeof p);
    return p;
}

/* one of 0..127: cutting a nonnegative number off rounds it down */
static inline uint32_t activation(float x)
{
    x = x > 0.0f ? x : 0.0f;
    x = x < 127.0f ? x : 127.0f;
    return (uint32_t)(int32_t)x;
}

/* the lowest byte of a word holds its first unit, wherever memory has it */
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#define ER_SWAP 3
#else
#define ER_SWAP 0
#endif

/* Adds the rows of w1 that a column's codes name, to the units that see the column; then the words
 * of h1 from `word` on whose units are due. */
#define ER_DEFINE_FIRST_LAYER(TYPE, ADD, FIRE)                                                    \
    static void ADD(const struct er_generator *g, TYPE *restrict sums,                            \
                    const int32_t *restrict codes, uint64_t column)                               \
    {                                                                                             \
        const uint64_t start = g->seen[column] / ER_WIDE * ER_WIDE;                               \
        const uint64_t end = (g->hidden + ER_WIDE - 1) / ER_WIDE * ER_WIDE;                       \
        const int8_t *table = g->w1 + g->offset[column] * g->stride;                              \
        for (uint64_t row = 0; row < ER_NET_ROWS; row++) {                                        \
            const int8_t *restrict w = table + (uint64_t)codes[row] * g->stride;                  \
            TYPE *restrict sum = sums + row * g->stride;                                          \
            for (uint64_t u = start; u < end; u += ER_WIDE)                                       \
                for (uint64_t i = 0; i < ER_WIDE; i++)                                            \
                    sum[u + i] = (TYPE)(sum[u + i] + w[u + i]);                                   \
        }                                                                                         \
    }                                                                                             \
    static void FIRE(const struct er_generator *g, const TYPE *restrict sums,                     \
                     uint32_t *restrict h1, uint64_t word, uint64_t end)                          \
    {                                                                                             \
        for (; word < end; word += 4) {                                                           \
            const float *restrict rescale = g->rescale1 + ER_UNITS * word;                        \
            const float *restrict shift = g->shift1 + ER_UNITS * word;                            \
            uint8_t fired[ER_NET_ROWS][4 * ER_UNITS];                                             \
            for (uint64_t row = 0; row < ER_NET_ROWS; row++) {                                    \
                const TYPE *restrict sum = sums + row * g->stride + ER_UNITS * word;              \
                for (int i = 0; i < 4 * ER_UNITS; i++)                                            \
                    fired[row][i] = (uint8_t)activation((float)sum[i] * rescale[i] + shift[i]);   \
            }                                                                                     \
            /* apart from the loop above, which would else read sums across rows */               \
            for (uint64_t row = 0; row < ER_NET_ROWS; row++) {                                    \
                uint32_t due[4];                                                                  \
                memcpy(due, fired[row], sizeof due);                                              \
                for (int i = 0; i < 4; i++)                                                       \
                    h1[(word + i) * ER_NET_ROWS + row] = due[i];                                  \
            }                                                                                     \
        }                                                                                         \
    }

ER_DEFINE_FIRST_LAYER(int16_t, add_short, fire_short)
ER_DEFINE_FIRST_LAYER(int32_t, add_long, fire_long)

static void second_layer(const struct er_generator *g, struct er_scratch *s, uint64_t word,
                         uint64_t words)
{
    int32_t product[ER_UNITS * ER_NET_ROWS];
    products(product, s->h1, g->w2 + word * g->words * ER_UNITS, words, g->b2 + ER_UNITS * word);
    const float *rescale = g->rescale2 + ER_UNITS * word, *skip = g->skip2 + ER_UNITS * word;
    const float r0 = rescale[0], r1 = rescale[1], r2 = rescale[2], r3 = rescale[3];
    const float s0 = skip[0], s1 = skip[1], s2 = skip[2], s3 = skip[3];
    const uint32_t *restrict below = s->h1 + word * ER_NET_ROWS;
    uint32_t *restrict h2 = s->h2 + word * ER_NET_ROWS;
#define ER_SECOND(J, R, S)                                                                        \
    activation(positive((float)product[J * ER_NET_ROWS + row] * R) +                              \
               (float)(int32_t)(below[row] >> 8 * J & 255u) * S + 0.5f)                           \
        << 8 * J
#define positive(x) ((x) > 0.0f ? (x) : 0.0f)
    for (int row = 0; row < ER_NET_ROWS; row++)
        h2[row] = ER_SECOND(0, r0, s0) | ER_SECOND(1, r1, s1) | ER_SECOND(2, r2, s2) |
                  ER_SECOND(3, r3, s3);
#undef positive
#undef ER_SECOND
}

/* Logits of a column in units of log 2, and the largest of each row. */
static void score(const struct er_generator *g, struct er_scratch *s, uint64_t column,
                  uint64_t words, float *restrict top)
{
    const uint64_t outputs = (uint64_t)g->cardinality[column];
    const uint32_t *w = g->w3 + g->block3[column];
    const int32_t *bias = g->b3 + g->channel3[column];
    const float *scale = g->scale3 + g->channel3[column];
    for (int row = 0; row < ER_NET_ROWS; row++)
        top[row] = -FLT_MAX;
    for (uint64_t k = 0; k < outputs; k += ER_UNITS, w += words * ER_UNITS) {
        int32_t product[ER_UNITS * ER_NET_ROWS];
        products(product, s->h2, w, words, bias + k);
        const uint64_t real = outputs - k < ER_UNITS ? outputs - k : ER_UNITS;
        for (uint64_t j = 0; j < real; j++) {
            float *restrict logit = s->weight + (k + j) * ER_NET_ROWS;
            const float unit = scale[k + j];
            for (int row = 0; row < ER_NET_ROWS; row++) {
                const float x = (float)product[j * ER_NET_ROWS + row] * unit;
                logit[row] = x;
                top[row] = x > top[row] ? x : top[row];
            }
        }
    }
}

/* The code of each row: how many cumulative weights, without the last, are at most u times the
 * last. Noise from 1 on names the code itself. */
static void draw(const struct er_generator *g, struct er_scratch *s, uint64_t column,
                 const float *restrict top)
{
    const uint64_t outputs = (uint64_t)g->cardinality[column];
    const float *restrict u = s->noise + column * ER_NET_ROWS;
    int32_t *restrict codes = s->codes + column * ER_NET_ROWS;
    float total[ER_NET_ROWS];
    int32_t below[ER_NET_ROWS];
    for (int row = 0; row < ER_NET_ROWS; row++)
        total[row] = 0.0f;
    for (uint64_t k = 0; k < outputs; k++) {
        float *restrict weight = s->weight + k * ER_NET_ROWS;
        for (int row = 0; row < ER_NET_ROWS; row++) {
            total[row] = total[row] + exp2_down(weight[row] - top[row]);
            weight[row] = total[row];
        }
    }
    for (int row = 0; row < ER_NET_ROWS; row++) {
        total[row] = u[row] * total[row];
        below[row] = 0;
    }
    for (uint64_t k = 0; k + 1 < outputs; k++) {
        const float *restrict weight = s->weight + k * ER_NET_ROWS;
        for (int row = 0; row < ER_NET_ROWS; row++)
            below[row] += weight[row] <= total[row];
    }
    for (int row = 0; row < ER_NET_ROWS; row++)
        codes[row] = u[row] >= 1.0f ? (int32_t)u[row] - 1 : below[row];
}

static void block(const struct er_generator *g, struct er_scratch *s)
{
    memset(s->sums, 0,
           ER_NET_ROWS * g->stride * (g->short_sums ? sizeof(int16_t) : sizeof(int32_t)));
    for (uint64_t column = 0; column < g->columns; column++) {
        const uint64_t end = g->seen[column], words = (end + 7) / 8 * 2;
        const uint64_t first = column == 0 ? end : g->seen[column - 1];
        if (column != 0 && first < g->hidden) {
            const int32_t *codes = s->codes + (column - 1) * ER_NET_ROWS;
            if (g->short_sums)
                add_short(g, s->sums, codes, column - 1);
            else
                add_long(g, s->sums, codes, column - 1);
        }
        if (first < end) {
            const uint64_t word = first / ER_UNITS, last = (end + ER_UNITS - 1) / ER_UNITS;
            if (g->short_sums)
                fire_short(g, s->sums, s->h1, word, last);
            else
                fire_long(g, s->sums, s->h1, word, last);
            for (uint64_t w = word; w < last; w++)
                second_layer(g, s, w, words);
        }
        float top[ER_NET_ROWS];
        score(g, s, column, words, top);
        draw(g, s, column, top);
    }
}

const er_network ER_NETWORK_OBJECT = {ER_NETWORK_NAME, ER_NETWORK_USABLE, block};
