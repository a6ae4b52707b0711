/* The lanes as the compiler's own baseline makes them: SSE2 on x86-64, NEON on aarch64. */
#include <float.h>
#include <math.h>
#include <string.h>

#include "../kernel.h"
#include "isa.h"
#include "lanes.h"

static int usable(void)
{
    return 1;
}

#define ER_LANES_OBJECT er_lanes_portable
#define ER_LANES_ISA ER_ISA_BASELINE
#define ER_LANES_NAME "portable"
#define ER_LANES_USABLE usable
#include "lanes_body.h"
