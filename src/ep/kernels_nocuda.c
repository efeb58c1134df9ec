/* Stands in for the CUDA kernels where the library was built without CUDA. There is no CUDA device then, and so no team
 * on one: only creation can ever be reached. */
#include "ep/kernels_int.h"

static epg_status create(epg_group *g)
{
    (void)g;
    return epg__fail(EPG_ERR_UNSUPPORTED, "this library was built without CUDA (make CUDA=1 builds it in)");
}

static void destroy(epg_group *g) { (void)g; }

const epg__kernels epg__kernels_cuda = {.create = create, .destroy = destroy};
