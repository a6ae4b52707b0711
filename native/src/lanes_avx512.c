/* The lanes sixteen at a time; see lanes_avx2.c. */
#include <float.h>
#include <math.h>
#include <string.h>

#include "../kernel.h"
#include "isa.h"
#include "lanes.h"

#if ER_MULTIPLE_ISA
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")
#endif

static int usable(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

#define ER_LANES_OBJECT er_lanes_avx512
#define ER_LANES_ISA "x86-64-v4"
#define ER_LANES_NAME "avx512"
#define ER_LANES_USABLE usable
#include "lanes_body.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#else
typedef int er_lanes_avx512_absent; /* C99 wants at least one declaration in a file */
#endif
