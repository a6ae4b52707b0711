/* The products as every x86-64 has them: 16-bit multiply-adds on the even and the odd bytes. */
#include <float.h>
#include <string.h>

#include "generator.h"
#include "isa.h"

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#include <emmintrin.h>

static int usable(void)
{
    return 1;
}

/* bytes 0 and 2 of each word, then bytes 1 and 3, as 16-bit numbers */
typedef struct halves {
    __m128i even, odd;
} halves;

static inline halves spread(__m128i x)
{
    const halves both = {_mm_and_si128(x, _mm_set1_epi16(255)), _mm_srli_epi16(x, 8)};
    return both;
}

static inline halves splat(const uint32_t *p)
{
    const __m128i w = _mm_set1_epi32((int32_t)*p);
    const halves both = {_mm_srai_epi16(_mm_slli_epi16(w, 8), 8), _mm_srai_epi16(w, 8)};
    return both;
}

static inline __m128i dot(__m128i sum, halves x, halves w)
{
    return _mm_add_epi32(_mm_add_epi32(sum, _mm_madd_epi16(x.even, w.even)),
                         _mm_madd_epi16(x.odd, w.odd));
}

#define ER_V __m128i
#define ER_V_LANES 4
#define ER_V_PER 2
#define ER_W halves
#define ER_X halves
#define ER_SPLAT splat
#define ER_SPREAD spread
#define ER_LOAD(p) _mm_loadu_si128((const __m128i *)(p))
#define ER_STORE(p, x) _mm_storeu_si128((__m128i *)(p), x)
#define ER_FILL _mm_set1_epi32
#define ER_DOT dot
#include "generator_tile.h"

#define ER_NETWORK_OBJECT er_network_sse2
#define ER_NETWORK_NAME "sse2"
#define ER_NETWORK_USABLE usable
#include "generator_body.h"
#else
typedef int er_network_sse2_absent; /* C99 wants at least one declaration in a file */
#endif
