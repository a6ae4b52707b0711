/* Which of the loops compiled once per instruction set are run. */
#include "isa.h"

#include <stddef.h>
#include <string.h>

#include "../kernel.h"
#include "lanes.h"

/* Widest first. */
static const er_lanes *const all[] = {
#if ER_MULTIPLE_ISA
    &er_lanes_avx512,
    &er_lanes_avx2,
#endif
    &er_lanes_portable,
};
#define LANES_COUNT (sizeof all / sizeof *all)

/* The one piece of state of the library: NULL, or what er_isa_select was last asked for. Set it
 * before other threads call the kernel; every choice gives the same bits. */
static const er_lanes *selected = NULL;

const er_lanes *er_lanes_best(void)
{
    if (selected != NULL)
        return selected;
    for (size_t i = 0; i + 1 < LANES_COUNT; i++)
        if (all[i]->usable())
            return all[i];
    return all[LANES_COUNT - 1];
}

int er_isa_select(const char *isa)
{
    if (isa == NULL) {
        selected = NULL;
        return ER_OK;
    }
    for (size_t i = 0; i < LANES_COUNT; i++)
        if (strcmp(all[i]->isa, isa) == 0) {
            if (!all[i]->usable())
                return ER_VALUE;
            selected = all[i];
            return ER_OK;
        }
    return ER_VALUE;
}

const char *er_isa_name(uint64_t index)
{
    for (size_t i = LANES_COUNT; i-- != 0;)
        if (all[i]->usable() && index-- == 0)
            return all[i]->isa;
    return NULL;
}

const char *er_isa(void)
{
    return er_lanes_best()->isa;
}

const char *er_lanes_name(void)
{
    return er_lanes_best()->name;
}
