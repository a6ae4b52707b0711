/* Dot products on aarch64, an option of ARMv8.2: a Raspberry Pi 5 has them, a 3 or 4 has not. */
#include <float.h>
#include <string.h>

#include "generator.h"

#if defined(__aarch64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC target("arch=armv8.2-a+dotprod")
#include <arm_neon.h>
#include <sys/auxv.h>

/* HWCAP_ASIMDDP of asm/hwcap.h, which older headers lack */
#define DOT_PRODUCT (1ul << 20)

static int usable(void)
{
    return (getauxval(AT_HWCAP) & DOT_PRODUCT) != 0;
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
#define ER_DOT vdotq_s32
#include "generator_tile.h"

#define ER_NETWORK_OBJECT er_network_dotprod
#define ER_NETWORK_NAME "dotprod"
#define ER_NETWORK_USABLE usable
#include "generator_body.h"
#else
typedef int er_network_dotprod_absent; /* C99 wants at least one declaration in a file */
#endif
