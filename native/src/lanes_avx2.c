/* The lanes eight at a time. Empty where the compiler cannot be told an instruction set per file
 * from inside it; the portable lanes give the same bits. */
#include <float.h>
#include <math.h>
#include <string.h>

#include "../kernel.h"
#include "isa.h"
#include "lanes.h"

#if ER_MULTIPLE_ISA
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2"))), apply_to = function)
#else
#pragma GCC target("avx2")
#endif

static int usable(void)
{
    return __builtin_cpu_supports("avx2") != 0;
}

#define ER_LANES_OBJECT er_lanes_avx2
#define ER_LANES_ISA "x86-64-v3"
#define ER_LANES_NAME "avx2"
#define ER_LANES_USABLE usable
#include "lanes_body.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#else
typedef int er_lanes_avx2_absent; /* C99 wants at least one declaration in a file */
#endif
