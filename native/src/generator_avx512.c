/* As generator_avx2.c, on 512 bits. */
#include <float.h>
#include <string.h>

#include "generator.h"
#include "isa.h"

#if ER_NETWORK_FILES
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")
#include <immintrin.h>

static int usable(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

static inline __m512i dot(__m512i sum, __m512i x, __m512i w)
{
    const __m512i pairs = _mm512_maddubs_epi16(x, w);
    return _mm512_add_epi32(sum, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
}

#define ER_V __m512i
#define ER_V_LANES 16
#define ER_V_PER 4
#define ER_W __m512i
#define ER_X __m512i
#define ER_SPLAT(p) _mm512_set1_epi32((int32_t)*(p))
#define ER_SPREAD(x) (x)
#define ER_LOAD(p) _mm512_loadu_si512(p)
#define ER_STORE(p, x) _mm512_storeu_si512(p, x)
#define ER_FILL _mm512_set1_epi32
#define ER_DOT dot
#include "generator_tile.h"

#define ER_NETWORK_OBJECT er_network_avx512
#define ER_NETWORK_NAME "avx512"
#define ER_NETWORK_USABLE usable
#include "generator_body.h"
#else
typedef int er_network_avx512_absent; /* C99 wants at least one declaration in a file */
#endif
