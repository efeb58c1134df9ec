/* Fibers on the C library's contexts. */
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>
#include "device/fiber_int.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define WITH_ASAN 1
#endif
#if __has_feature(thread_sanitizer)
#define WITH_TSAN 1
#endif
#endif
#ifdef __SANITIZE_ADDRESS__
#define WITH_ASAN 1
#endif
#ifdef __SANITIZE_THREAD__
#define WITH_TSAN 1
#endif

#ifdef WITH_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
static void asan_leave(epg__context *from, const epg__context *to, bool ends)
{
    __sanitizer_start_switch_fiber(ends ? NULL : &from->fake, to->bottom, to->bytes);
}
/* The one who switched may be the caller, whose stack only this tells. */
static void asan_arrive(epg__context *self)
{
    __sanitizer_finish_switch_fiber(self->fake, &self->from->bottom, &self->from->bytes);
}
static void asan_forget(void *stack, size_t bytes) { __asan_unpoison_memory_region(stack, bytes); }
/* Its swapcontext clears the marks of the whole stack that it is told of, at each switch. */
static void asan_hide_stack(ucontext_t *machine) { machine->uc_stack.ss_size = 0; }
#else
static void asan_leave(epg__context *from, const epg__context *to, bool ends) { (void)from, (void)to, (void)ends; }
static void asan_arrive(epg__context *self) { (void)self; }
static void asan_forget(void *stack, size_t bytes) { (void)stack, (void)bytes; }
static void asan_hide_stack(ucontext_t *machine) { (void)machine; }
#endif

#ifdef WITH_TSAN
void *__tsan_get_current_fiber(void);
void *__tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void *fiber);
void __tsan_switch_to_fiber(void *fiber, unsigned flags);
static void tsan_create(epg__context *context) { context->thread = __tsan_create_fiber(0); }
static void tsan_destroy(epg__context *context) { __tsan_destroy_fiber(context->thread); }
static void tsan_leave(epg__context *from, const epg__context *to)
{
    from->thread = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(to->thread, 0);
}
#else
static void tsan_create(epg__context *context) { (void)context; }
static void tsan_destroy(epg__context *context) { (void)context; }
static void tsan_leave(epg__context *from, const epg__context *to) { (void)from, (void)to; }
#endif

/* Only touched pages cost memory. Host programs run on it, and with them whatever they call. */
enum { STACK_BYTES = 512 * 1024 };

static size_t guard_bytes(void) { return (size_t)sysconf(_SC_PAGESIZE); }

static void *stack_take(epg__stack_pool *pool)
{
    size_t guard = guard_bytes();
    void **stack = pool->free;
    if (stack) {
        pool->free = *stack;
        return stack;
    }
    char *made = mmap(NULL, guard + STACK_BYTES, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
    if (made == MAP_FAILED)
        return NULL;
    if (mprotect(made, guard, PROT_NONE) != 0) {
        munmap(made, guard + STACK_BYTES);
        return NULL;
    }
    return made + guard;
}

void epg__stack_pool_destroy(epg__stack_pool *pool)
{
    size_t guard = guard_bytes();
    while (pool->free) {
        void **stack = pool->free;
        pool->free = *stack;
        munmap((char *)stack - guard, guard + STACK_BYTES);
    }
}

/* makecontext passes ints only. */
static void enter_halves(unsigned context_high, unsigned context_low, unsigned enter_high, unsigned enter_low,
                         unsigned arg_high, unsigned arg_low)
{
    epg__context *self = (epg__context *)(uintptr_t)((uint64_t)context_high << 32 | context_low);
    void (*enter)(void *) = (void (*)(void *))(uintptr_t)((uint64_t)enter_high << 32 | enter_low);
    void *arg = (void *)(uintptr_t)((uint64_t)arg_high << 32 | arg_low);
    asan_arrive(self);
    enter(arg);
}

static unsigned high(uintptr_t value) { return (unsigned)((uint64_t)value >> 32); }
static unsigned low(uintptr_t value) { return (unsigned)value; }

bool epg__context_create(epg__context *context, epg__stack_pool *pool, void (*enter)(void *arg), void *arg)
{
    uintptr_t self = (uintptr_t)context, fn = (uintptr_t)enter, given = (uintptr_t)arg;
    *context = (epg__context){.stack = stack_take(pool), .bytes = STACK_BYTES};
    if (!context->stack || getcontext(&context->machine) != 0)
        return false;
    context->bottom = context->stack;
    context->machine.uc_stack.ss_sp = context->stack;
    context->machine.uc_stack.ss_size = STACK_BYTES;
    context->machine.uc_link = NULL;
    makecontext(&context->machine, (void (*)(void))enter_halves, 6, high(self), low(self), high(fn), low(fn),
                high(given), low(given));
    asan_hide_stack(&context->machine);
    tsan_create(context);
    return true;
}

void epg__context_destroy(epg__context *context, epg__stack_pool *pool)
{
    void **stack = context->stack;
    if (!stack)
        return;
    tsan_destroy(context);
    asan_forget(stack, STACK_BYTES); /* frames that were cut off have left their marks */
    *stack = pool->free;
    pool->free = stack;
    context->stack = NULL;
}

void epg__context_switch(epg__context *from, epg__context *to, bool ends)
{
    to->from = from;
    asan_leave(from, to, ends);
    tsan_leave(from, to);
    swapcontext(&from->machine, &to->machine);
    asan_arrive(from);
}
