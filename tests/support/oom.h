/* Makes the Nth allocation (or thread creation) of the library fail, and counts what is still allocated. Works by
 * wrapping malloc and its kin at link time, so it sees what is linked statically: the library and the test, not the C
 * library or OpenBLAS. */
#ifndef TESTS_OOM_H
#define TESTS_OOM_H

/* From now on, on any thread: allocation number `nth` (0 is the next one) fails, once. */
void oom_fail_at(long nth);

/* Stops failing; returns 1 if the failure was delivered. */
int oom_stop(void);

/* Blocks allocated and not freed since oom_track_start. */
void oom_track_start(void);
long oom_tracked(void);

#endif
