/* What the devices' graph dumps share. */
#include "device/device_ops.h"

void epg__dot_escape(const char *text, void (*write)(void *ctx, const char *text), void *ctx)
{
    char piece[128];
    size_t at = 0;
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        if (c == '"' || c == '\\')
            piece[at++] = '\\';
        piece[at++] = c < ' ' ? ' ' : (char)c;
        if (at >= sizeof piece - 3 || !text[1]) {
            piece[at] = 0;
            write(ctx, piece);
            at = 0;
        }
    }
}
