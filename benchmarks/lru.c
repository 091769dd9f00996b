/*
 * Set-associative least recently used, the plain way: what the vectorised code is held against.
 *
 * One row of `ways` keys a set, the most recently used first, searched from the front. Returns the misses; `held` has
 * room for sets * ways keys.
 */
#include <stdint.h>
#include <string.h>

long misses(const int64_t *keys, long accesses, long sets, long ways, int64_t *held)
{
	long missed = 0;
	for (long place = 0; place < sets * ways; place++)
		held[place] = -1;
	for (long at = 0; at < accesses; at++) {
		int64_t key = keys[at], *row = held + key % sets * ways;
		long place = 0;
		while (place < ways && row[place] != key)
			place++;
		if (place == ways) {
			missed++;
			place--;
		}
		memmove(row + 1, row, place * sizeof *row);
		row[0] = key;
	}
	return missed;
}
