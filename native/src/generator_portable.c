/* The products in plain C: the reference beside every faster one, and what runs where none does. */
#include <float.h>
#include <string.h>

#include "generator.h"

static int usable(void)
{
    return 1;
}

/* byte j of a word as a signed number; the conversion of a large value is the compiler's choice in
 * C99, so the sign is taken off by hand */
static inline int32_t signed_byte(uint32_t word, int j)
{
    return (int32_t)((word >> 8 * j & 255u) ^ 128u) - 128;
}

static void products(int32_t *restrict out, const uint32_t *restrict h,
                     const uint32_t *restrict w, uint64_t words, const int32_t *restrict bias)
{
    for (int j = 0; j < ER_UNITS; j++)
        for (int row = 0; row < ER_NET_ROWS; row++)
            out[j * ER_NET_ROWS + row] = bias[j];
    for (uint64_t word = 0; word < words; word++, h += ER_NET_ROWS, w += ER_UNITS)
        for (int j = 0; j < ER_UNITS; j++) {
            const int32_t w0 = signed_byte(w[j], 0), w1 = signed_byte(w[j], 1),
                          w2 = signed_byte(w[j], 2), w3 = signed_byte(w[j], 3);
            for (int row = 0; row < ER_NET_ROWS; row++)
                out[j * ER_NET_ROWS + row] +=
                    (int32_t)(h[row] & 255u) * w0 + (int32_t)(h[row] >> 8 & 255u) * w1 +
                    (int32_t)(h[row] >> 16 & 255u) * w2 + (int32_t)(h[row] >> 24) * w3;
        }
}

#define ER_NETWORK_OBJECT er_network_portable
#define ER_NETWORK_NAME "portable"
#define ER_NETWORK_USABLE usable
#include "generator_body.h"
