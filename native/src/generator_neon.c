/* The products as every aarch64 has them. Activations are 0..127, so that they are signed bytes
 * too, and the sum of two products fits 16 bits. */
#include <float.h>
#include <string.h>

#include "generator.h"

#if defined(__aarch64__)
#include <arm_neon.h>

static int usable(void)
{
    return 1;
}

static inline int32x4_t dot(int32x4_t sum, int8x16_t x, int8x16_t w)
{
    const int16x8_t low = vmull_s8(vget_low_s8(x), vget_low_s8(w));
    const int16x8_t high = vmull_high_s8(x, w);
    return vpadalq_s16(sum, vpaddq_s16(low, high));
}

#define ER_V int32x4_t
#define ER_V_LANES 4
#define ER_V_PER 4
#define ER_W int8x16_t
#define ER_X int8x16_t
#define ER_SPLAT(p) vreinterpretq_s8_u32(vdupq_n_u32(*(p)))
#define ER_SPREAD vreinterpretq_s8_u32
#define ER_LOAD vld1q_u32
#define ER_STORE vst1q_s32
#define ER_FILL vdupq_n_s32
#define ER_DOT dot
#include "generator_tile.h"

#define ER_NETWORK_OBJECT er_network_neon
#define ER_NETWORK_NAME "neon"
#define ER_NETWORK_USABLE usable
#include "generator_body.h"
#else
typedef int er_network_neon_absent; /* C99 wants at least one declaration in a file */
#endif
