/* Dot products on 512 bits. */
#include <float.h>
#include <string.h>

#include "generator.h"
#include "isa.h"

#if ER_NETWORK_FILES
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,prefer-vector-width=512")
#include <immintrin.h>

static int usable(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vnni");
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
#define ER_DOT _mm512_dpbusd_epi32
#include "generator_tile.h"

#define ER_NETWORK_OBJECT er_network_avx512vnni
#define ER_NETWORK_NAME "avx512vnni"
#define ER_NETWORK_USABLE usable
#include "generator_body.h"
#else
typedef int er_network_avx512vnni_absent; /* C99 wants at least one declaration in a file */
#endif
