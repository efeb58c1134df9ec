/* c10's names in Paddle, and what the C++ library's std::string looks like there. */
#ifndef EPG_SCOPE_PADDLE_INT_H
#define EPG_SCOPE_PADDLE_INT_H

#include "core/core_int.h"

/* libstdc++'s std::string of 11 and later ABIs, which points into itself while it is short. Initialised in place: it
 * cannot be copied. */
typedef struct epg__paddle_text {
    char *characters;
    size_t length;
    char inside[16];
} epg__paddle_text;

void epg__paddle_text_init(void *text);
bool epg__paddle_text_is_empty(const void *text); /* and a string at all */

/* `getter` and `setter` are c10::cuda::getCurrentCUDAStream and setCurrentCUDAStream; `ordinal` is a GPU that Paddle
 * uses. Probes how a stream is returned; EPG_ERR_UNSUPPORTED unless it is as Paddle's generations do. To be asked
 * before the others. */
epg_status epg__paddle_c10_probe(void *getter, int ordinal);
epg_status epg__paddle_c10_get(void *getter, int ordinal, uint64_t *id);
epg_status epg__paddle_c10_expect(void *getter, int ordinal, uint64_t id);
void epg__paddle_c10_set(void *setter, int ordinal, uint64_t id);

#endif
