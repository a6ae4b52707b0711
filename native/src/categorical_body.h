/* Codes from logits, rows as lanes; included by lanes_body.h. The sum over the categories of a row
 * runs from first to last whatever the vector width, so the codes are the same everywhere. */

#define ER_KEPT 256 /* categories whose weights stay at hand; wider blocks are computed twice */

/* exp(x) for x <= 0. The polynomial is Cephes' expf (netlib cephes/single/expf.c). Below -87 the
 * weight is 0: subnormal numbers, which some processors flush, never arise. */
static inline float exponential_of(float x)
{
    const float inside = x < -87.0f ? -87.0f : x;
    /* adding 1.5 * 2^23 rounds to the nearest integer, half to even */
    const float n = (inside * 1.44269504088896341f + 12582912.0f) - 12582912.0f;
    float r = inside - n * 0.693359375f;
    r = r - n * -2.12194440e-4f;
    float y = 1.9875691500e-4f;
    y = y * r + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f;
    y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f;
    y = y * r + 5.0000001201e-1f;
    y = (y * (r * r) + r) + 1.0f;
    const float power = float_of((uint32_t)((int32_t)n + 127) << 23);
    const float weight = y * power;
    return x < -87.0f ? 0.0f : weight;
}

typedef float tile[ER_KEPT][ER_BLOCKS];

/* logits of 16 rows and n categories, categories outside, rows inside */
static void load_tile(tile x, const float *const rows[ER_BLOCKS], uint64_t first, uint64_t n)
{
    for (int lane = 0; lane < ER_BLOCKS; lane++) {
        const float *row = rows[lane] + first;
        for (uint64_t k = 0; k < n; k++)
            x[k][lane] = row[k];
    }
}

/* top: running maximum; bad: nonzero where a logit is NaN or +infinity */
static void find_top(tile x, uint64_t n, float top[ER_BLOCKS], uint32_t bad[ER_BLOCKS])
{
    for (uint64_t k = 0; k < n; k++)
        for (int lane = 0; lane < ER_BLOCKS; lane++) {
            const float value = x[k][lane];
            top[lane] = value > top[lane] ? value : top[lane];
            bad[lane] |= !(value <= FLT_MAX);
        }
}

/* logits become cumulative weights; last: the last category that has a weight */
static void add_up(tile x, uint64_t first, uint64_t n, const float top[ER_BLOCKS],
                   float sharpness, float total[ER_BLOCKS], int32_t last[ER_BLOCKS])
{
    for (uint64_t k = 0; k < n; k++) {
        const int32_t code = (int32_t)(first + k);
        for (int lane = 0; lane < ER_BLOCKS; lane++) {
            const float weight = exponential_of((x[k][lane] - top[lane]) * sharpness);
            last[lane] = weight > 0.0f ? code : last[lane];
            total[lane] += weight;
            x[k][lane] = total[lane];
        }
    }
}

static void count_below(tile x, uint64_t n, const float threshold[ER_BLOCKS],
                        int32_t count[ER_BLOCKS])
{
    for (uint64_t k = 0; k < n; k++)
        for (int lane = 0; lane < ER_BLOCKS; lane++)
            count[lane] += x[k][lane] <= threshold[lane];
}

/* One column of 16 rows. */
static int choose(int32_t code[ER_BLOCKS], const float *const rows[ER_BLOCKS], uint64_t width,
                  const float u[ER_BLOCKS], float sharpness)
{
    tile x;
    float top[ER_BLOCKS], total[ER_BLOCKS], threshold[ER_BLOCKS];
    uint32_t bad[ER_BLOCKS];
    int32_t count[ER_BLOCKS], last[ER_BLOCKS];
    for (int lane = 0; lane < ER_BLOCKS; lane++) {
        top[lane] = -FLT_MAX;
        total[lane] = 0.0f;
        bad[lane] = 0;
        count[lane] = last[lane] = 0;
    }
    for (uint64_t first = 0; first < width; first += ER_KEPT) {
        const uint64_t n = width - first < ER_KEPT ? width - first : ER_KEPT;
        load_tile(x, rows, first, n);
        find_top(x, n, top, bad);
    }
    uint32_t wrong = 0;
    for (int lane = 0; lane < ER_BLOCKS; lane++)
        wrong |= bad[lane];
    if (wrong != 0)
        return ER_VALUE;
    for (uint64_t first = 0; first < width; first += ER_KEPT) {
        const uint64_t n = width - first < ER_KEPT ? width - first : ER_KEPT;
        if (width > ER_KEPT)
            load_tile(x, rows, first, n);
        add_up(x, first, n, top, sharpness, total, last);
    }
    for (int lane = 0; lane < ER_BLOCKS; lane++) {
        threshold[lane] = u[lane] * total[lane];
        /* a block of nothing but -infinity has no weight; -FLT_MAX itself has one */
        wrong |= !(total[lane] > 0.0f);
    }
    if (wrong != 0)
        return ER_VALUE;
    if (width <= ER_KEPT) {
        count_below(x, width, threshold, count);
    } else {
        for (int lane = 0; lane < ER_BLOCKS; lane++)
            total[lane] = 0.0f;
        for (uint64_t first = 0; first < width; first += ER_KEPT) {
            const uint64_t n = width - first < ER_KEPT ? width - first : ER_KEPT;
            load_tile(x, rows, first, n);
            add_up(x, first, n, top, sharpness, total, last);
            count_below(x, n, threshold, count);
        }
    }
    /* u total may round up to the total itself: then every category is counted, and the last one
     * with a weight is meant */
    for (int lane = 0; lane < ER_BLOCKS; lane++)
        code[lane] = count[lane] < last[lane] ? count[lane] : last[lane];
    return ER_OK;
}

static int categorical(const er_choice *c)
{
    for (uint64_t row = 0; row < c->rows; row += ER_BLOCKS) {
        const uint64_t n = c->rows - row < ER_BLOCKS ? c->rows - row : ER_BLOCKS;
        const float *rows[ER_BLOCKS];
        for (uint64_t lane = 0; lane < ER_BLOCKS; lane++) /* missing rows repeat the last one */
            rows[lane] = c->logits + (int64_t)(row + (lane < n ? lane : n - 1)) * c->logit_stride;
        for (uint64_t column = 0; column < c->columns; column++) {
            const uint32_t width = c->widths[column];
            float u[ER_BLOCKS];
            int32_t code[ER_BLOCKS];
            for (uint64_t lane = 0; lane < ER_BLOCKS; lane++) {
                const uint64_t from = row + (lane < n ? lane : n - 1);
                u[lane] = c->u[(int64_t)from * c->u_stride + (int64_t)column];
                if (!(u[lane] >= 0.0f))
                    return ER_VALUE;
                if (u[lane] >= 1.0f && !(u[lane] < (float)width + 1.0f))
                    return ER_RANGE;
            }
            const int error = choose(code, rows, width, u, c->sharpness);
            if (error != ER_OK)
                return error;
            for (uint64_t lane = 0; lane < n; lane++)
                c->codes[(int64_t)(row + lane) * c->code_stride + (int64_t)column] =
                    u[lane] >= 1.0f ? (int32_t)u[lane] - 1 : code[lane];
            for (int lane = 0; lane < ER_BLOCKS; lane++)
                rows[lane] += width;
        }
    }
    return ER_OK;
}
