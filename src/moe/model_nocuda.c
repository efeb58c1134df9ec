/* Stands in for the CUDA kernels of models and experts where the library was built without CUDA. There is no CUDA
 * device then: only creation can ever be reached. */
#include "core/core_int.h"
#include "moe/model_ops.h"

static epg_status absent(void)
{
    return epg__fail(EPG_ERR_UNSUPPORTED, "this library was built without CUDA (make CUDA=1 builds it in)");
}

static epg_dtype weight_type(epg_dtype row_type, epg_tensor_type checkpoint)
{
    (void)row_type, (void)checkpoint;
    return EPG_FLOAT32;
}

static epg_status model_create(epg_model *model)
{
    (void)model;
    return absent();
}

static void model_destroy(epg_model *model) { (void)model; }

static epg_status experts_create(epg_experts *experts)
{
    (void)experts;
    return absent();
}

static void experts_destroy(epg_experts *experts) { (void)experts; }

const epg__model_kernels epg__model_kernels_cuda = {
    .weight_type = weight_type, .create = model_create, .destroy = model_destroy};
const epg__experts_kernels epg__experts_kernels_cuda = {.create = experts_create, .destroy = experts_destroy};
