#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>
#include "support/checkpoint.h"

static char root[] = "/tmp/epgraph-checkpoint-XXXXXX";
static char directory[128];

const char *checkpoint_directory(void) { return directory; }

const char *checkpoint_path(const char *name)
{
    static char path[512];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    return path;
}

void checkpoint_clear(void)
{
    DIR *dir = opendir(directory);
    struct dirent *entry;
    while (dir && (entry = readdir(dir)))
        unlink(checkpoint_path(entry->d_name));
    if (dir)
        closedir(dir);
}

int checkpoint_has(const char *name) { return access(checkpoint_path(name), F_OK) == 0; }

epg_moe_shape checkpoint_small_shape(void)
{
    epg_moe_shape s = EPG_MOE_SHAPE_INIT;
    s.layers = 2;
    s.hidden = 16;
    s.experts = 4;
    s.topk = 2;
    s.intermediate = 8;
    s.vocab = 32;
    return s;
}

void checkpoint_write_small(epg_tensor_type type, uint64_t shard_bytes, uint64_t seed)
{
    epg_checkpoint_write_options options = EPG_CHECKPOINT_WRITE_OPTIONS_INIT;
    options.shape = checkpoint_small_shape();
    options.type = type;
    options.seed = seed;
    options.shard_bytes = shard_bytes;
    assert_int_equal(epg_checkpoint_write(directory, &options), EPG_OK);
}

char *checkpoint_slurp(const char *name, size_t *bytes)
{
    FILE *file = fopen(checkpoint_path(name), "r");
    assert_non_null(file);
    fseek(file, 0, SEEK_END);
    *bytes = (size_t)ftell(file);
    rewind(file);
    char *text = calloc(*bytes + 1, 1);
    assert_int_equal(fread(text, 1, *bytes, file), *bytes);
    fclose(file);
    return text;
}

void checkpoint_spill(const char *name, const void *data, size_t bytes)
{
    FILE *file = fopen(checkpoint_path(name), "w");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, bytes, file), bytes);
    assert_int_equal(fclose(file), 0);
}

void checkpoint_craft(const char *name, const char *header, size_t data_bytes)
{
    size_t length = strlen(header), bytes = 8 + length + data_bytes;
    unsigned char *file = malloc(bytes);
    memset(file, 1, bytes);
    for (int i = 0; i < 8; i++)
        file[i] = (unsigned char)((uint64_t)length >> 8 * i);
    memcpy(file + 8, header, length);
    checkpoint_spill(name, file, bytes);
    free(file);
}

void checkpoint_refuse(epg_status status, const char *first, const char *second)
{
    epg_checkpoint *checkpoint = NULL;
    epg_status got = epg_checkpoint_open(directory, &checkpoint);
    if (got != status || !strstr(epg_message(), first) || !strstr(epg_message(), second))
        fail_msg("got %s \"%s\", wanted %s with \"%s\" and \"%s\"", epg_status_name(got), got ? epg_message() : "",
                 epg_status_name(status), first, second);
    assert_null(checkpoint);
}

void checkpoint_edit(const char *name, const char *from, const char *to)
{
    size_t bytes;
    char *text = checkpoint_slurp(name, &bytes), *found = memmem(text, bytes, from, strlen(from));
    char *made = malloc(bytes + strlen(to) + 1);
    if (!found)
        fail_msg("%s does not hold %s", name, from);
    size_t head = (size_t)(found - text), tail = bytes - head - strlen(from);
    memcpy(made, text, head);
    memcpy(made + head, to, strlen(to));
    memcpy(made + head + strlen(to), found + strlen(from), tail);
    checkpoint_spill(name, made, head + strlen(to) + tail);
    free(made);
    free(text);
}

int checkpoint_set_up(void **state)
{
    (void)state;
    if (!mkdtemp(root))
        return 1;
    snprintf(directory, sizeof directory, "%s/checkpoint", root); /* made by the writer */
    return 0;
}

int checkpoint_tear_down(void **state)
{
    (void)state;
    checkpoint_clear();
    return rmdir(directory) != 0 || rmdir(root) != 0;
}
