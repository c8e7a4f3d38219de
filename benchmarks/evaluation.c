/* What a plain loop costs: XOR, popcount and one counter per distance, and a counting sort; and a
   tuned one, that counts in eight tables, so that no step waits for the one before. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static inline int distance(const uint64_t *a, const uint64_t *b, int words) {
  int bits = 0;
  for (int k = 0; k < words; k++) bits += __builtin_popcountll(a[k] ^ b[k]);
  return bits;
}

/* counts: num_queries x (64 words + 1) x 2, by distance and relevance, zero at first. */
void count(const uint64_t *queries, const int32_t *query_labels, int64_t num_queries,
           const uint64_t *items, const int32_t *labels, int64_t num_items, int words,
           uint32_t *counts) {
  for (int64_t q = 0; q < num_queries; q++) {
    uint32_t *counters = counts + q * (64 * words + 1) * 2;
    for (int64_t i = 0; i < num_items; i++) {
      int d = distance(queries + q * words, items + i * words, words);
      counters[2 * d + (labels[i] == query_labels[q])]++;
    }
  }
}

/* counts: of all items by query and distance, codes of one word, zeroed by the caller. */
void count_tuned(const uint64_t *queries, int64_t num_queries, const uint64_t *items,
                 int64_t num_items, uint32_t *counts) {
  enum { TILE = 2048, TABLES = 8 };
  uint8_t distances[TILE];
  for (int64_t q = 0; q < num_queries; q++) {
    uint32_t tables[TABLES][65] = {{0}};
    for (int64_t start = 0; start < num_items; start += TILE) {
      int64_t size = num_items - start < TILE ? num_items - start : TILE;
      for (int64_t i = 0; i < size; i++)
        distances[i] = __builtin_popcountll(queries[q] ^ items[start + i]);
      for (int64_t i = 0; i < size; i++) tables[i % TABLES][distances[i]]++;
    }
    for (int t = 0; t < TABLES; t++)
      for (int d = 0; d <= 64; d++) counts[65 * q + d] += tables[t][d];
  }
}

/* The same distances, summed and not counted: what XOR and popcount alone cost. */
uint64_t sum_distances(const uint64_t *queries, int64_t num_queries, const uint64_t *items,
                       int64_t num_items) {
  uint64_t sum = 0;
  for (int64_t q = 0; q < num_queries; q++)
    for (int64_t i = 0; i < num_items; i++) sum += __builtin_popcountll(queries[q] ^ items[i]);
  return sum;
}

/* scores: the average precision of each query, items at equal distance in their order. */
void rank(const uint64_t *queries, const int32_t *query_labels, int64_t num_queries,
          const uint64_t *items, const int32_t *labels, int64_t num_items, int words, int64_t top_k,
          double *scores) {
  uint16_t *distances = malloc(num_items * sizeof(uint16_t));
  uint8_t *ranking = malloc(num_items);
  uint32_t *places = malloc((64 * words + 2) * sizeof(uint32_t));
  for (int64_t q = 0; q < num_queries; q++) {
    memset(places, 0, (64 * words + 2) * sizeof(uint32_t));
    for (int64_t i = 0; i < num_items; i++) {
      distances[i] = distance(queries + q * words, items + i * words, words);
      places[distances[i] + 1]++;
    }
    for (int d = 0; d <= 64 * words; d++) places[d + 1] += places[d];
    for (int64_t i = 0; i < num_items; i++)
      ranking[places[distances[i]]++] = labels[i] == query_labels[q];
    double sum = 0;
    int64_t hits = 0;
    for (int64_t r = 0; r < top_k; r++)
      if (ranking[r]) sum += (double)++hits / (r + 1);
    scores[q] = hits ? sum / hits : 0;
  }
  free(distances);
  free(ranking);
  free(places);
}
