/* Decoding and cell numbers of a block of rows; included by lanes_body.h. */

/* Codes and positions of n rows side by side: in place where they are, copied where they are not. */
static int gather_rows(const int32_t **code, const float **u, int32_t codes[ER_ROWS],
                       float units[ER_ROWS], const er_bins *b, uint64_t first, uint64_t n)
{
    *code = b->codes + (int64_t)first * b->code_stride;
    *u = b->u + (int64_t)first * b->u_stride;
    if (b->code_stride != 1) {
        for (uint64_t i = 0; i < n; i++)
            codes[i] = (*code)[(int64_t)i * b->code_stride];
        *code = codes;
    }
    if (b->u_stride != 1) {
        for (uint64_t i = 0; i < n; i++)
            units[i] = (*u)[(int64_t)i * b->u_stride];
        *u = units;
    }
    const int32_t *c = *code;
    const float *x = *u;
    uint32_t wrong = 0;
    for (uint64_t i = 0; i < n; i++)
        wrong |= ((uint32_t)c[i] > b->count) | !((x[i] >= 0.0f) & (x[i] < 1.0f));
    return wrong == 0;
}

/* Values of n rows before rounding. */
static void interpolate(double *restrict value, const int32_t *restrict code,
                        const float *restrict u, const er_bins *b, uint64_t n, double missing)
{
    const int32_t count = (int32_t)b->count, per_bin = (int32_t)b->per_bin;
    int32_t index[ER_ROWS];
    double part[ER_ROWS], pair[ER_ROWS][2];
    if (per_bin == 1) {
        for (uint64_t i = 0; i < n; i++)
            value[i] = code[i] == count ? missing : b->knots[code[i]];
        return;
    }
    const double pieces = (double)(per_bin - 1);
    for (uint64_t i = 0; i < n; i++) {
        const double x = (double)u[i] * pieces; /* exact, below pieces */
        const int32_t piece = (int32_t)x;
        part[i] = x - (double)piece;
        index[i] = (code[i] == count ? 0 : code[i]) * per_bin + piece;
    }
    /* both knots of a piece in one load: this loop, not arithmetic, bounds the whole */
    for (uint64_t i = 0; i < n; i++)
        memcpy(pair[i], &b->knots[index[i]], sizeof pair[i]);
    for (uint64_t i = 0; i < n; i++) {
        const double low = pair[i][0], high = pair[i][1];
        /* low + t (high - low) may round above high */
        double x = low + part[i] * (high - low);
        x = x < low ? low : x;
        x = x > high ? high : x;
        value[i] = code[i] == count ? missing : x;
    }
}

/* First and last knot of each row's bin. */
static void ends_of(double low[restrict ER_ROWS], double high[restrict ER_ROWS],
                    const int32_t *restrict code, const er_bins *b, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        const uint32_t bin = (uint32_t)code[i] == b->count ? 0 : (uint32_t)code[i];
        const double *k = b->knots + bin * b->per_bin;
        low[i] = k[0];
        high[i] = k[b->per_bin - 1];
    }
}

/* Decimals: half to even. Dividing (not multiplying by 10^-decimals) gives the double that is
 * nearest to the decimal number. What overflows, or is NaN, stays as it is; what leaves the bin is
 * clamped. */
static void round_values(double *restrict value, const int32_t *restrict code,
                         const er_bins *b, uint64_t n)
{
    const double scale = b->scale;
    double rounded[ER_ROWS], low[ER_ROWS], high[ER_ROWS];
    if (b->rounding > 0)
        for (uint64_t i = 0; i < n; i++)
            rounded[i] = rint(value[i] * scale) / scale;
    else
        for (uint64_t i = 0; i < n; i++)
            rounded[i] = rint(value[i] / scale) * scale;
    ends_of(low, high, code, b, n);
    for (uint64_t i = 0; i < n; i++) {
        double x = fabs(rounded[i]) <= DBL_MAX ? rounded[i] : value[i];
        x = x < low[i] ? low[i] : x;
        value[i] = x > high[i] ? high[i] : x;
    }
}

static int decode_f64(double *restrict out, const er_bins *b, uint64_t first, uint64_t n)
{
    int32_t codes[ER_ROWS];
    float units[ER_ROWS];
    const int32_t *code;
    const float *u;
    if (!gather_rows(&code, &u, codes, units, b, first, n))
        return 0;
    interpolate(out, code, u, b, n, (double)NAN);
    if (b->rounding != 0)
        round_values(out, code, b, n);
    return 1;
}

static int decode_f32(float *restrict out, const er_bins *b, uint64_t first, uint64_t n)
{
    double value[ER_ROWS];
    const int fits = decode_f64(value, b, first, n);
    for (uint64_t i = 0; fits && i < n; i++)
        out[i] = (float)value[i];
    return fits;
}

static int decode_i64(int64_t *restrict out, const er_bins *b, uint64_t first, uint64_t n)
{
    int32_t codes[ER_ROWS];
    float units[ER_ROWS];
    double value[ER_ROWS], low[ER_ROWS], high[ER_ROWS];
    const int32_t *code;
    const float *u;
    if (!gather_rows(&code, &u, codes, units, b, first, n))
        return 0;
    interpolate(value, code, u, b, n, 0.0);
    ends_of(low, high, code, b, n);
    for (uint64_t i = 0; i < n; i++) {
        const double least = ceil(low[i]), most = floor(high[i]), x = rint(value[i]);
        double inside = x < least ? least : x;
        inside = inside > most ? most : inside;
        value[i] = least <= most ? inside : x; /* a bin without integers keeps the nearest */
    }
    for (uint64_t i = 0; i < n; i++) {
        const int64_t rank = (int64_t)value[i];
        out[i] = (uint32_t)code[i] == b->count ? b->missing : b->origin + b->step * rank;
    }
    return 1;
}

static int cells(uint32_t *restrict out, const int32_t *a, int64_t a_stride, uint32_t ka,
                 const int32_t *b, int64_t b_stride, uint32_t kb, uint64_t n)
{
    uint32_t wrong = 0;
    if (b == NULL) {
        for (uint64_t i = 0; i < n; i++) {
            out[i] = (uint32_t)a[(int64_t)i * a_stride];
            wrong |= out[i] >= ka;
        }
        return wrong == 0;
    }
    if (a_stride == 1 && b_stride == 1) { /* apart, so that it becomes vectors */
        for (uint64_t i = 0; i < n; i++) {
            const uint32_t first = (uint32_t)a[i], second = (uint32_t)b[i];
            wrong |= (first >= ka) | (second >= kb);
            out[i] = first * kb + second;
        }
        return wrong == 0;
    }
    for (uint64_t i = 0; i < n; i++) {
        const uint32_t first = (uint32_t)a[(int64_t)i * a_stride];
        const uint32_t second = (uint32_t)b[(int64_t)i * b_stride];
        wrong |= (first >= ka) | (second >= kb);
        out[i] = first * kb + second;
    }
    return wrong == 0;
}
