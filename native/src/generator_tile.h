/* `products` of generator_body.h from vector instructions, for any width of vector. The including
 * file defines the vectors:
 *
 *     ER_V, ER_V_LANES         a vector of that many 32-bit words, one per row
 *     ER_V_PER                 vectors at once: as many as leave ER_UNITS * ER_V_PER sums in registers
 *     ER_W, ER_SPLAT(p)        one word of weights, ready for every row
 *     ER_X, ER_SPREAD(v)       a vector of activations, ready for the products
 *     ER_LOAD, ER_STORE, ER_FILL, ER_DOT(sum, x, w)
 */
static void products(int32_t *restrict out, const uint32_t *restrict h,
                     const uint32_t *restrict w, uint64_t words, const int32_t *restrict bias)
{
    for (int row = 0; row < ER_NET_ROWS; row += ER_V_LANES * ER_V_PER) {
        ER_V sum[ER_UNITS][ER_V_PER];
        /* unrolled, so that the sums are registers */
#pragma GCC unroll 4
        for (int j = 0; j < ER_UNITS; j++)
#pragma GCC unroll 4
            for (int i = 0; i < ER_V_PER; i++)
                sum[j][i] = ER_FILL(bias[j]);
        for (uint64_t word = 0; word < words; word++) {
            ER_X x[ER_V_PER];
#pragma GCC unroll 4
            for (int i = 0; i < ER_V_PER; i++)
                x[i] = ER_SPREAD(ER_LOAD(h + word * ER_NET_ROWS + row + i * ER_V_LANES));
#pragma GCC unroll 4
            for (int j = 0; j < ER_UNITS; j++) {
                const ER_W weight = ER_SPLAT(w + word * ER_UNITS + j);
#pragma GCC unroll 4
                for (int i = 0; i < ER_V_PER; i++)
                    sum[j][i] = ER_DOT(sum[j][i], x[i], weight);
            }
        }
#pragma GCC unroll 4
        for (int j = 0; j < ER_UNITS; j++)
#pragma GCC unroll 4
            for (int i = 0; i < ER_V_PER; i++)
                ER_STORE(out + j * ER_NET_ROWS + row + i * ER_V_LANES, sum[j][i]);
    }
}
