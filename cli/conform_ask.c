/* Asking a device, with a watchdog.
 *
 * A driver may hang in a call made during a capture, and a process whose driver hangs is of no further use. So a child
 * asks, and sends each row through a pipe; if none comes for a while, the row that is due hung, and another child goes
 * on behind it. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include "conform.h"

/* For the first row of a child, which has the device's creation before it. */
enum { CREATION_MS = 60000 };

/* ---- the child ---- */

static void send_row(void *ctx, const epg_conform_row *row)
{
    const int *out = ctx;
    /* Smaller than PIPE_BUF, hence whole. A parent that is gone ends the child by SIGPIPE. */
    if (write(*out, row, sizeof(*row)) != (ssize_t)sizeof(*row))
        exit(CLI_FAILED);
}

static int child_main(const char *command, const epg_device_options *device, uint32_t first, int out)
{
    epg_conform_options options = EPG_CONFORM_OPTIONS_INIT;
    epg_device *made;
    options.first = first;
    if (epg_device_create(device, &made) != EPG_OK)
        return cli_bad_input(command, epg_message());
    epg_status status = epg_conform_run(made, &options, send_row, &out);
    if (status != EPG_OK)
        fprintf(stderr, "%s: %s\n", command, epg_message());
    epg_device_destroy(made);
    return status == EPG_OK ? CLI_OK : CLI_FAILED;
}

/* ---- the parent ---- */

static const char *const modes[] = {"global", "thread_local", "relaxed"};
static const char *const states[] = {"none", "active", "invalidated"};

static void take_row(conform_table *table, const epg_conform_row *row, bool hung)
{
    conform_line *line = &table->lines[table->count++];
    line->hung = hung;
    snprintf(line->key, sizeof(line->key), "%s,%s,%s,%s", modes[row->mode],
             row->stream == EPG_STREAM_BLOCKING ? "blocking" : "nonblocking", row->other_thread ? "other" : "same",
             row->op);
    if (hung)
        snprintf(line->answer, sizeof(line->answer), "hang,,,");
    else
        snprintf(line->answer, sizeof(line->answer), "%d,%s,%d,%llu", row->op_result, states[row->status_after],
                 row->end_result, (unsigned long long)row->nodes);
}

/* The child's next row. 1: here it is; 0: the child is at its end; -1: it hangs. */
static int next_row(int in, int patience_ms, epg_conform_row *row)
{
    struct pollfd poll_in = {.fd = in, .events = POLLIN};
    int ready;
    do
        ready = poll(&poll_in, 1, patience_ms);
    while (ready < 0 && errno == EINTR);
    if (ready == 0)
        return -1;
    return read(in, row, sizeof(*row)) == (ssize_t)sizeof(*row);
}

static int wait_child(const char *command, pid_t child)
{
    int status;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR)
        continue;
    if (WIFEXITED(status))
        return WEXITSTATUS(status);
    fprintf(stderr, "%s: the process that asks the device was ended by signal %d\n", command, WTERMSIG(status));
    return CLI_FAILED;
}

/* Takes rows until the child ends or hangs. *hung: it did, and the table has that row. */
static int follow(const char *command, pid_t child, int in, int patience_ms, conform_table *table, bool *hung)
{
    epg_conform_row row = EPG_CONFORM_ROW_INIT;
    int next = next_row(in, CREATION_MS, &row);
    for (; next > 0; next = next_row(in, patience_ms, &row))
        take_row(table, &row, false);
    *hung = next < 0 && epg_conform_describe(table->count, &row) == EPG_OK;
    if (next < 0)
        kill(child, SIGKILL);
    if (!*hung)
        return wait_child(command, child);
    take_row(table, &row, true);
    waitpid(child, NULL, 0);
    return CLI_OK;
}

int conform_ask(const char *command, const epg_device_options *device, int patience_ms, conform_table *table)
{
    bool hung = true;
    int code = CLI_OK;
    while (hung && code == CLI_OK && table->count < epg_conform_count()) {
        int ends[2];
        if (pipe(ends) != 0) {
            fprintf(stderr, "%s: no pipe: %s\n", command, strerror(errno));
            return CLI_FAILED;
        }
        fflush(NULL);
        pid_t child = fork();
        if (child == 0) {
            close(ends[0]);
            exit(child_main(command, device, table->count, ends[1]));
        }
        close(ends[1]);
        if (child < 0) {
            fprintf(stderr, "%s: no child process: %s\n", command, strerror(errno));
            code = CLI_FAILED;
        } else {
            code = follow(command, child, ends[0], patience_ms, table, &hung);
        }
        close(ends[0]);
    }
    return code;
}
