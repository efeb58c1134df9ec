/* The driver answers every row of the conformance table as it did when the table was read. The command asks in
 * processes of its own, since a driver may hang: it goes on behind such a row. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include "support/device_under_test.h"

int main(void)
{
    char command[512];
    const char *build = getenv("EPGRAPH_BUILD");
    if (test_gpu_missing())
        return 77;
    snprintf(command, sizeof command, "%s/epgraph", build ? build : "build");
    execl(command, command, "conform", "--device", "cuda", "--against", "tests/data/capture_h200.csv", (char *)NULL);
    perror(command);
    return 1;
}
