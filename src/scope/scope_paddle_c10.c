/* c10's names in Paddle's library. They are PyTorch's, and the stream behind them is not: 48 bytes, kind and index of
 * the device, a std::string that is empty for a GPU, and the handle as id. A class that is not trivially copyable is
 * returned through memory of the caller's and passed as the address of a copy. Whether the state is this thread's own,
 * the context's, or one before the other, the generations differ in; scope_paddle.c finds out by reading. */
#include <string.h>
#include "scope/scope_ops.h"
#include "scope/scope_paddle_int.h"

enum { KIND_CUDA = 1 };

typedef struct stream48 {
    int8_t kind, index;
    epg__paddle_text text;
    uint64_t id;
} stream48;
_Static_assert(sizeof(stream48) == 48 && offsetof(stream48, id) == 40, "as the class is laid out");

typedef stream48 *(*get_fn)(stream48 *place, int8_t device);
typedef void (*set_fn)(stream48 *stream);

void epg__paddle_text_init(void *text)
{
    epg__paddle_text *empty = text;
    memset(empty, 0, sizeof *empty);
    empty->characters = empty->inside;
}

bool epg__paddle_text_is_empty(const void *text)
{
    epg__paddle_text copy;
    memcpy(&copy, text, sizeof copy); /* it need not be a string, nor aligned as one */
    return copy.characters == (const char *)text + offsetof(epg__paddle_text, inside) && copy.length == 0;
}

static bool is_of(const stream48 *stream, int ordinal)
{
    return stream->kind == KIND_CUDA && stream->index == ordinal && epg__paddle_text_is_empty(&stream->text);
}

epg_status epg__paddle_c10_probe(void *getter, int ordinal)
{
    epg__scope_probe probe;
    stream48 stream;
    EPG_TRY(epg__scope_probe_stream(getter, ordinal, &probe));
    if (!probe.through_memory)
        return epg__fail(EPG_ERR_UNSUPPORTED, "returns a c10 stream in registers, not through memory");
    memcpy(&stream, probe.memory, sizeof stream);
    /* The copy's string points into the original. */
    bool points_inside = stream.text.characters == (char *)probe.place + offsetof(stream48, text.inside);
    if (stream.kind != KIND_CUDA || stream.index != ordinal || !points_inside || stream.text.length != 0)
        return epg__fail(EPG_ERR_UNSUPPORTED, "its c10 stream of GPU %d is laid out as none that is known", ordinal);
    return EPG_OK;
}

epg_status epg__paddle_c10_get(void *getter, int ordinal, uint64_t *id)
{
    stream48 stream;
    memset(&stream, 0, sizeof stream);
    ((get_fn)getter)(&stream, (int8_t)ordinal);
    if (!is_of(&stream, ordinal))
        return epg__fail(EPG_ERR_UNSUPPORTED, "its c10 stream of GPU %d is laid out otherwise than when probed",
                         ordinal);
    *id = stream.id;
    return EPG_OK;
}

epg_status epg__paddle_c10_expect(void *getter, int ordinal, uint64_t id)
{
    uint64_t now = 0;
    EPG_TRY(epg__paddle_c10_get(getter, ordinal, &now));
    if (now != id)
        return epg__fail(EPG_ERR_UNSUPPORTED, "its c10 reads back 0x%llx after stream 0x%llx was set",
                         (unsigned long long)now, (unsigned long long)id);
    return EPG_OK;
}

void epg__paddle_c10_set(void *setter, int ordinal, uint64_t id)
{
    stream48 stream = {.kind = KIND_CUDA, .index = (int8_t)ordinal, .id = id};
    epg__paddle_text_init(&stream.text);
    ((set_fn)setter)(&stream);
}
