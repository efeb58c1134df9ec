/* Times of rounds, and what is said of them. */
#include <math.h>
#include <stdlib.h>
#include "bench_int.h"

int bench_series_make(bench_series *series, uint32_t ranks, uint32_t rounds)
{
    *series = (bench_series){calloc((size_t)ranks * rounds, sizeof(double)), ranks, rounds};
    return series->us ? 0 : -1;
}

void bench_series_free(bench_series *series)
{
    free(series->us);
    *series = (bench_series){0};
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

bench_times bench_times_of(double *us, uint32_t count)
{
    qsort(us, count, sizeof *us, ascending);
    return (bench_times){us[count / 10], us[count / 2], us[count - 1 - count / 10]};
}

/* The later of two; NAN, where either is. */
static double later(double a, double b) { return a > b || isnan(a) ? a : b; }

double bench_series_round(const bench_series *series, uint32_t round)
{
    double slowest = series->us[round];
    for (uint32_t r = 1; r < series->ranks; r++)
        slowest = later(slowest, series->us[(size_t)r * series->rounds + round]);
    return slowest;
}

bench_times bench_series_times(const bench_series *series)
{
    double us[BENCH_ROUNDS_MAX];
    for (uint32_t round = 0; round < series->rounds; round++) {
        us[round] = bench_series_round(series, round);
        if (isnan(us[round]))
            return BENCH_NO_TIMES;
    }
    return bench_times_of(us, series->rounds);
}
