/* The thread that did not begin the capture: it makes a row's call while the one that did waits for the answer.
 *
 * One thread serves all rows, and has used its per-thread stream before the first. A driver was seen to hang, now and
 * then and for good, in a thread's *first* use of that stream while another thread captures; what the table asks is
 * what the launch does to a capture, not whether a stream can be made during one. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include "device/conform_int.h"

typedef enum state { STARTING, IDLE, ASKED, LEAVING } state;

struct epg__conform_thread {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t moved; /* the state */
    state state;
    epg_device *device;
    epg__conform_world *world; /* of the call that is asked for */
    uint32_t op;
    epg_status answer;         /* while IDLE: of the last call, or of getting ready */
};

static epg_status get_ready(epg_device *device)
{
    EPG_TRY(device->ops->probe_make_current(device));
    EPG_TRY(device->ops->probe_launch(device, EPG_STREAM_PER_THREAD));
    return epg_stream_synchronize(device, EPG_STREAM_PER_THREAD);
}

static void become(epg__conform_thread *t, state next)
{
    t->state = next;
    pthread_cond_broadcast(&t->moved);
}

static void *thread_main(void *arg)
{
    epg__conform_thread *t = arg;
    epg_status answer = get_ready(t->device);
    pthread_mutex_lock(&t->lock);
    t->answer = answer;
    become(t, IDLE);
    while (t->state != LEAVING) {
        if (t->state != ASKED) {
            pthread_cond_wait(&t->moved, &t->lock);
            continue;
        }
        pthread_mutex_unlock(&t->lock);
        answer = epg__conform_ask(t->world, t->op);
        pthread_mutex_lock(&t->lock);
        t->answer = answer;
        become(t, IDLE);
    }
    pthread_mutex_unlock(&t->lock);
    return NULL;
}

/* Waits for the thread's answer. With the lock held. */
static epg_status wait_idle(epg__conform_thread *t)
{
    while (t->state != IDLE)
        pthread_cond_wait(&t->moved, &t->lock);
    return t->answer;
}

epg_status epg__conform_thread_create(epg_device *device, epg__conform_thread **thread)
{
    epg__conform_thread *t = epg__zalloc(1, sizeof *t, "the conformance table's other thread");
    if (!t)
        return EPG_ERR_NO_MEMORY;
    t->device = device;
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->moved, NULL);
    int error = pthread_create(&t->thread, NULL, thread_main, t);
    if (error) {
        pthread_cond_destroy(&t->moved);
        pthread_mutex_destroy(&t->lock);
        free(t);
        return epg__fail(EPG_ERR_SYSTEM, "no second thread for the conformance table: %s", strerror(error));
    }
    pthread_mutex_lock(&t->lock);
    epg_status ready = wait_idle(t);
    pthread_mutex_unlock(&t->lock);
    *thread = t; /* the caller destroys it, ready or not */
    if (ready != EPG_OK)
        return epg__fail(ready, "the conformance table's other thread cannot use the device: %s",
                         epg_status_text(ready));
    return EPG_OK;
}

void epg__conform_thread_destroy(epg__conform_thread *t)
{
    if (!t)
        return;
    pthread_mutex_lock(&t->lock);
    become(t, LEAVING);
    pthread_mutex_unlock(&t->lock);
    pthread_join(t->thread, NULL);
    pthread_cond_destroy(&t->moved);
    pthread_mutex_destroy(&t->lock);
    free(t);
}

epg_status epg__conform_thread_ask(epg__conform_thread *t, epg__conform_world *world, uint32_t op)
{
    pthread_mutex_lock(&t->lock);
    t->world = world;
    t->op = op;
    become(t, ASKED);
    epg_status answer = wait_idle(t);
    pthread_mutex_unlock(&t->lock);
    return answer;
}
