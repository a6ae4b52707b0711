/* The products from 16-bit pairs: 127 * 128 * 2 fits, so the saturating instruction is exact. */
#include <float.h>
#include <string.h>

#include "generator.h"
#include "isa.h"

#if ER_NETWORK_FILES
#pragma GCC target("avx2")
#include <immintrin.h>

static int usable(void)
{
    return __builtin_cpu_supports("avx2") != 0;
}

static inline __m256i dot(__m256i sum, __m256i x, __m256i w)
{
    const __m256i pairs = _mm256_maddubs_epi16(x, w);
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

#define ER_V __m256i
#define ER_V_LANES 8
#define ER_V_PER 2
#define ER_W __m256i
#define ER_X __m256i
#define ER_SPLAT(p) _mm256_set1_epi32((int32_t)*(p))
#define ER_SPREAD(x) (x)
#define ER_LOAD(p) _mm256_loadu_si256((const __m256i *)(p))
#define ER_STORE(p, x) _mm256_storeu_si256((__m256i *)(p), x)
#define ER_FILL _mm256_set1_epi32
#define ER_DOT dot
#include "generator_tile.h"

#define ER_NETWORK_OBJECT er_network_avx2
#define ER_NETWORK_NAME "avx2"
#define ER_NETWORK_USABLE usable
#include "generator_body.h"
#else
typedef int er_network_avx2_absent; /* C99 wants at least one declaration in a file */
#endif
