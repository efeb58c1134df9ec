/* Ranks that join again, on the CUDA device: the kernels of epg_group_join and epg_group_admit. What dispatch send does
 * about it is in dispatch_send_cuda.cu, and the reasons for all of it are told in admit_host.c.
 *
 * Members come in chunks, as many as fit into a kernel's parameters: first all lanes are told of all members, and only
 * then a rank that joins waits for invitations, lane by lane. A kernel is one block, and one thread of it decides:
 * admissions are rare. */
#include "ep/lane_cuda_int.cuh"
#include "ep/wait_cuda.cuh"

/* ---- a place that was lost ---- */

/* Peers that have not noticed the loss may still look at these words, or store into them: each is stored whole. */
static __device__ void clean_words(void *from, size_t bytes)
{
    for (size_t i = threadIdx.x; i < bytes / sizeof(uint32_t); i += blockDim.x)
        epg__word_store((uint32_t *)from + i, 0);
}
static __device__ void clean_signals(uint64_t *from, size_t count)
{
    for (size_t i = threadIdx.x; i < count; i += blockDim.x)
        epg__signal_store(from + i, 0);
}

static __global__ void clean_place(const __grid_constant__ epg__cuda_admission a)
{
    const epg__cuda_lane &l = a.lane;
    epg_wire_header *header = epg__own_header(l);
    if (threadIdx.x == 0)
        epg__word_store(&header->outside, 1);
    __syncthreads();
    clean_words(&header->aborted, sizeof header->aborted);
    clean_words(&header->rehearsal, sizeof header->rehearsal);
    clean_words(&header->record, sizeof header->record);
    clean_words(header->counters, sizeof header->counters);
    clean_words(l.own + l.wire.mask, l.wire.lanes - l.wire.mask);
    for (uint32_t n = 0; n < l.wire.geometry.lanes; n++) {
        char *lane = epg__lane_at(&l.wire, l.own, n);
        epg_wire_lane *own = (epg_wire_lane *)lane;
        clean_words(own, offsetof(epg_wire_lane, beat));
        clean_signals(&own->beat, 1);
        clean_signals((uint64_t *)(lane + l.wire.signals), 4 * (size_t)l.ranks);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence_system();
        epg__word_store(&header->incarnation, l.incarnation); /* partner: epg__look in wait_cuda.cuh */
    }
}

/* ---- a rank that stays ---- */

static __device__ void expect_rank(const epg__cuda_lane &l, uint32_t rank, uint32_t incarnation, uint32_t epoch)
{
    const epg_wire_lane *own = (const epg_wire_lane *)epg__own_lane(l);
    epg__entry *entry = &l.entries[rank], coming = {incarnation, epoch};
    if (epg__lives_of(l)[rank] >= incarnation || entry->incarnation >= incarnation)
        return; /* told twice */
    epg__give_up(l, rank, incarnation - 1);
    l.pair->epoch = own->epoch; /* no pair is open, and none may have run yet */
    if ((int32_t)(own->epoch - epoch) >= 0) {
        epg__record_failure(l, EPG_ERR_PAIRS, EPG_OP_JOIN, rank, epoch, own->epoch);
        epg__give_up(l, rank, incarnation);
        return;
    }
    *l.entering += !entry->incarnation;
    *entry = coming;
    if (epg__is_invited(l, rank, own->epoch))
        epg__send_signal(l, own->epoch, EPG_WIRE_DISPATCH, rank, 0, false);
}

/* Every life of the rank that this lane knows is given up. */
static __device__ void forget_rank(const epg__cuda_lane &l, uint32_t rank, uint32_t incarnation)
{
    uint32_t life = epg__lives_of(l)[rank], coming = l.entries[rank].incarnation;
    uint32_t newest = life > coming ? life : coming;
    epg__give_up(l, rank, newest > incarnation ? newest : incarnation);
}

/* ---- a rank that joins ---- */

static __device__ void take_seat(const epg__cuda_lane &l, uint32_t rank, epg_member member, uint32_t epoch)
{
    epg_wire_lane *own = (epg_wire_lane *)epg__own_lane(l);
    own->epoch = l.pair->epoch = epoch - 1;
    epg__word_store(&epg__lives_of(l)[rank], member.incarnation);
    if (member.state == EPG_MEMBER_GONE)
        epg__give_up(l, rank, member.incarnation);
}

/* ---- either ---- */

static __global__ void note_members(const __grid_constant__ epg__cuda_admission a)
{
    const epg__cuda_lane &l = a.lane;
    for (uint32_t i = 0; i < a.count; i++) {
        epg_member member = a.members[i];
        if (a.joins)
            take_seat(l, a.first + i, member, a.epoch);
        else if (member.state == EPG_MEMBER_GONE)
            forget_rank(l, a.first + i, member.incarnation);
        else if (member.state == EPG_MEMBER_JOINS)
            expect_rank(l, a.first + i, member.incarnation, a.epoch);
    }
}

/* Ranks that join at the same epoch have clean regions and no past: they invite nobody. */
static __global__ void await_invitations(const __grid_constant__ epg__cuda_admission a)
{
    const epg__cuda_lane &l = a.lane;
    epg__word_store(&epg__own_header(l)->outside, 0);
    for (uint32_t i = 0; i < a.count; i++) {
        if (a.members[i].state != EPG_MEMBER_STAYS || !epg__rank_alive(l, a.first + i))
            continue;
        epg__wait w = epg__wait_for(l, EPG_WIRE_DISPATCH, a.first + i, l.pair->epoch);
        w.operation = EPG_OP_JOIN;
        (void)epg__wait_longer(w);
    }
}

/* ---- launchers ---- */

epg_status epg__cuda_clean_place(epg_device *device, epg_stream stream, const epg__cuda_admission *admission)
{
    epg__cuda_launch launch = {(const void *)clean_place, "join", {1, 1, 1}, 256, 0, 0};
    return epg__cuda_launch_kernel(device, stream, &launch, admission);
}

epg_status epg__cuda_note_members(epg_device *device, epg_stream stream, const epg__cuda_admission *admission)
{
    epg__cuda_launch launch = {(const void *)note_members, "admission", {1, 1, 1}, 1, 0, 0};
    return epg__cuda_launch_kernel(device, stream, &launch, admission);
}

epg_status epg__cuda_await_invitations(epg_device *device, epg_stream stream, const epg__cuda_admission *admission)
{
    epg__cuda_launch launch = {(const void *)await_invitations, "admission: wait", {1, 1, 1}, 1, 0, 0};
    return epg__cuda_launch_kernel(device, stream, &launch, admission);
}

epg_status epg__cuda_admit_prepare(epg_device *device)
{
    const void *const kernels[] = {(const void *)clean_place, (const void *)note_members,
                                   (const void *)await_invitations};
    epg_status status = EPG_OK;
    for (int i = 0; i < 3 && status == EPG_OK; i++)
        status = epg__cuda_kernel_prepare(device, kernels[i], 0);
    return status;
}
