/* fp8 e4m3 and its scales from their definition: a table of all values and a search for the nearest one, in double
 * precision. Shares no code with the library. */
#ifndef TESTS_FP8_ORACLE_H
#define TESTS_FP8_ORACLE_H

#include <stdint.h>

double fp8_value(uint8_t code);     /* NaN for 0x7F and 0xFF */
uint8_t fp8_nearest(double value);  /* ties to the even code, beyond +-448 to +-448, a NaN to 0x7F */

double bf16_value(uint16_t bits);

/* What a row of `count` bf16 elements becomes: codes, and one scale per 128. */
void fp8_row(const uint16_t *row, uint32_t count, int power_of_two, uint8_t *codes, float *scales);

#endif
