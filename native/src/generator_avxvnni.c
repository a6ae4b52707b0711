/* Dot products on 256 bits: processors with AVX-VNNI but without AVX-512. */
#include <float.h>
#include <string.h>

#include "generator.h"
#include "isa.h"

#if ER_NETWORK_FILES
#pragma GCC target("avx2,avxvnni")
#include <immintrin.h>

static int usable(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("avxvnni");
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
#define ER_DOT _mm256_dpbusd_avx_epi32
#include "generator_tile.h"

#define ER_NETWORK_OBJECT er_network_avxvnni
#define ER_NETWORK_NAME "avxvnni"
#define ER_NETWORK_USABLE usable
#include "generator_body.h"
#else
typedef int er_network_avxvnni_absent; /* C99 wants at least one declaration in a file */
#endif
