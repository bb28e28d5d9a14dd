// The attention of the newest tokens of rows to the keys and values that each has.
//
// Legend: r queries of a row, which share keys and values; m queries of all rows of a task; D width of a head; n keys.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "tiles.h"
#include "vectors.h"

namespace bottega {

// Keys and values [n, D] of one head: consecutive tokens from the position `start` on, which the queries from `begin`
// to `end` see as far as they stand before them. Their scores lie at `place`.
template <typename T>
struct Segment {
  const T *keys, *values;
  int64_t start, count, begin, end, place;

  // Without the tokens before `first` and after `last`.
  Segment within(int64_t first, int64_t last, int64_t width, int64_t value_width) const {
    const int64_t from = std::clamp<int64_t>(first - start, 0, count),
                  to = std::clamp<int64_t>(last + 1 - start, from, count);
    return {keys + from * width, values + from * value_width, start + from, to - from, begin, end, place};
  }
};

// Softmax(scale · q kᵀ) v of the m queries of a task: first all scores, then their weights, then the values.
template <typename T>
class TaskAttention {
 public:
  TaskAttention(int64_t width, int64_t value_width, double scale, int64_t window, double softcap)
      : width_(width), value_width_(value_width), window_(window), scale_(scale), softcap_(softcap) {}

  // q [m, D] of tokens at the positions [m] → out [m, D]. sinks [m]: the logit of a key more whose value is 0; or null.
  void attend(const T* q, const std::vector<int64_t>& positions, const std::vector<Segment<T>>& segments,
              const float* sinks, T* out) {
    const int64_t queries = positions.size();
    places_ = 0;
    for (const auto& segment : segments) places_ = std::max(places_, segment.place + whole_blocks(segment.count));
    scores_.assign(queries * places_, kHidden);
    sums_.assign(queries * value_width_, 0);
    // Beside the first, which is computed meanwhile: what is read where nothing before it was read comes late.
    for (size_t i = 1; i < segments.size(); ++i) fetch(segments[i].keys, segments[i].count * width_);
    const bool tiles = uses_tiles(width_, value_width_) && queries <= kTileQueries;
    tiles ? make_pairs(q, queries) : scale_queries(q, queries);
    for (const auto& segment : segments) {
      tiles ? score_by_tiles(segment) : score(segment);
      hide(segment, positions);
    }
    for (size_t i = 0; i < segments.size(); ++i) fetch(segments[i].values, segments[i].count * value_width_);
    factors_.resize(queries);
    for (int64_t query = 0; query < queries; ++query)
      factors_[query] = weigh(scores_.data() + query * places_, sinks ? sinks + query : nullptr);
    if (tiles) round_weights(queries);
    for (const auto& segment : segments) tiles ? mix_by_tiles(segment) : mix(segment);
    if (tiles) order_sums(queries);
    for (int64_t query = 0; query < queries; ++query) {
      for (int64_t i = query * value_width_; i < (query + 1) * value_width_; i += kLanes)
        store(out + i, load(sums_.data() + i) * factors_[query]);
    }
  }

  // Places of the scores of `count` keys.
  static int64_t whole_blocks(int64_t count) { return (count + kKeys - 1) / kKeys * kKeys; }

  // The most queries of a task that are computed as fast as one by tiles; without tiles, such that reading the keys is
  // a small part.
  static int64_t best_queries(int64_t width, int64_t value_width) {
    return uses_tiles(width, value_width) ? kTileQueries : 64;
  }

 private:
  static constexpr int64_t kKeys = 64;  // keys of a block
  static constexpr int64_t kTileQueries = 16;
  static constexpr float kHidden = -std::numeric_limits<float>::infinity();

  static void fetch(const T* numbers, int64_t count) {
    constexpr int64_t kMost = 1 << 14, kLine = 64;  // bytes
    const auto* bytes = reinterpret_cast<const char*>(numbers);
    for (int64_t i = 0; i < std::min<int64_t>(count * sizeof(T), kMost); i += kLine)
      __builtin_prefetch(bytes + i, 0, 2);
  }

  // Calls run(lines, count, place) for blocks of 64 keys or values; of the last, what comes after `count` may be
  // anything.
  template <typename Run>
  void for_blocks(const T* lines, int64_t width, int64_t count, int64_t place, const Run& run) {
    for (int64_t first = 0; first < count; first += kKeys) {
      const int64_t here = std::min(kKeys, count - first);
      const T* block = lines + first * width;
      if (here < kKeys) {
        padded_.resize(kKeys * width);
        std::copy_n(block, here * width, padded_.data());
        block = padded_.data();
      }
      run(block, here, place + first);
    }
  }

  const float* widen(const T* lines, int64_t count) {
    block_.resize(count);
    for (int64_t i = 0; i < count; i += kLanes) store(block_.data() + i, load(lines + i));
    return block_.data();
  }

  void scale_queries(const T* q, int64_t queries) {
    query_.resize(queries * width_);
    for (int64_t i = 0; i < queries * width_; i += kLanes) store(query_.data() + i, load(q + i) * scale_);
  }

  // Hides the keys that a query does not see.
  void hide(const Segment<T>& segment, const std::vector<int64_t>& positions) {
    for (int64_t query = segment.begin; query < segment.end; ++query) {
      float* line = scores_.data() + query * places_ + segment.place;
      const int64_t end = std::clamp<int64_t>(positions[query] + 1 - segment.start, 0, segment.count);
      const int64_t begin =
          window_ > 0 ? std::clamp<int64_t>(positions[query] + 1 - window_ - segment.start, 0, end) : 0;
      std::fill(line, line + begin, kHidden);
      std::fill(line + end, line + whole_blocks(segment.count), kHidden);
    }
  }

  void score(const Segment<T>& segment) {
    for_blocks(segment.keys, width_, segment.count, segment.place, [&](const T* lines, int64_t count, int64_t place) {
      const float* keys = widen(lines, kKeys * width_);
      for (int64_t query = segment.begin; query < segment.end; ++query) {
        float* line = scores_.data() + query * places_ + place;
        for (int64_t key = 0; key < count; key += kLanes) {
          Floats products[kLanes]{};
          for (int64_t i = 0; i < width_; i += kLanes) {
            const Floats part = load(query_.data() + query * width_ + i);
            for (int64_t j = 0; j < kLanes; ++j) products[j] += part * load(keys + (key + j) * width_ + i);
          }
          store(line + key, sums(products));
        }
      }
    });
  }

  // Scores → weights, in place, of which the largest is 1 if there is no sink; returns what all are to be multiplied
  // with.
  float weigh(float* line, const float* sink) {
    if (softcap_ > 0) {
      for (int64_t i = 0; i < places_; ++i)
        line[i] = line[i] == kHidden ? kHidden : softcap_ * std::tanh(line[i] / softcap_);
    }
    Floats most = broadcast(sink ? *sink : kHidden);
    for (int64_t i = 0; i < places_; i += kLanes) most = maximum(most, load(line + i));
    const float largest = maximum(most);
    Floats total{};
    for (int64_t i = 0; i < places_; i += kLanes) {
      const Floats weight = exponential(load(line + i) - largest);
      total += weight;
      store(line + i, weight);
    }
    return 1 / (sum(total) + (sink ? std::exp(*sink - largest) : 0));
  }

  void mix(const Segment<T>& segment) {
    for_blocks(segment.values, value_width_, segment.count, segment.place,
               [&](const T* lines, int64_t count, int64_t place) {
                 const float* values = widen(lines, count * value_width_);
                 for (int64_t query = segment.begin; query < segment.end; ++query) {
                   const float* weights = scores_.data() + query * places_ + place;
                   float* results = sums_.data() + query * value_width_;
                   for (int64_t i = 0; i < value_width_; i += kLanes) {
                     Floats result = load(results + i);
                     for (int64_t key = 0; key < count; ++key)
                       result += weights[key] * load(values + key * value_width_ + i);
                     store(results + i, result);
                   }
                 }
               });
  }

#ifdef __AMX_BF16__
  static bool uses_tiles(int64_t width, int64_t value_width) {
    return std::is_same_v<T, BFloat16> && Tiles::allowed() && width % 32 == 0 && value_width % 32 == 0;
  }

  // The queries as right factors: [D / 2 pairs, 32, 2] with zeros after the last, so that sixteen from any on can be
  // read.
  void make_pairs(const T* q, int64_t queries) {
    pairs_.assign(width_ * 2 * kTileQueries, T(0));
    for (int64_t pair = 0; pair < width_ / 2; ++pair) {
      for (int64_t query = 0; query < queries; ++query)
        std::copy_n(q + query * width_ + 2 * pair, 2, pairs_.data() + 2 * (pair * 2 * kTileQueries + query));
    }
  }

  void score_by_tiles(const Segment<T>& segment) {
    const int64_t count = segment.end - segment.begin;
    // 0 to 3: scores [16 keys, 16 queries]; 4: 16 keys; 5: queries [16 pairs, 16].
    tiles_.configure({{{16, 64}, {16, 64}, {16, 64}, {16, 64}, {16, 64}, {16, 64}, {16, 64}, {16, 64}}});
    alignas(64) float scores[kKeys * kTileQueries];
    for_blocks(segment.keys, width_, segment.count, segment.place, [&](const T* keys, int64_t here, int64_t place) {
      _tile_zero(0);
      _tile_zero(1);
      _tile_zero(2);
      _tile_zero(3);
      finish_writing();
      const int64_t stride = width_ * sizeof(T);
      for (int64_t i = 0; i < width_; i += 32) {
        _tile_loadd(5, pairs_.data() + i * 2 * kTileQueries + 2 * segment.begin, 2 * kTileQueries * 2 * sizeof(T));
        _tile_loadd(4, keys + i, stride);
        _tile_dpbf16ps(0, 4, 5);
        _tile_loadd(4, keys + 16 * width_ + i, stride);
        _tile_dpbf16ps(1, 4, 5);
        _tile_loadd(4, keys + 32 * width_ + i, stride);
        _tile_dpbf16ps(2, 4, 5);
        _tile_loadd(4, keys + 48 * width_ + i, stride);
        _tile_dpbf16ps(3, 4, 5);
      }
      _tile_stored(0, scores, 64);
      _tile_stored(1, scores + 16 * kTileQueries, 64);
      _tile_stored(2, scores + 32 * kTileQueries, 64);
      _tile_stored(3, scores + 48 * kTileQueries, 64);
      float* to = scores_.data() + segment.begin * places_ + place;
      for (int64_t key = 0; key < here; key += kLanes)
        store_columns(scores + key * kTileQueries, count, scale_, to + key, places_);
    });
  }

  void round_weights(int64_t queries) {
    weights_.resize(queries * places_);
    for (int64_t i = 0; i < queries * places_; i += kLanes) store(weights_.data() + i, load(scores_.data() + i));
  }

  void mix_by_tiles(const Segment<T>& segment) {
    const auto count = static_cast<int>(segment.end - segment.begin);
    // 0 to 3: results [m, 16]; 4: weights [m, 32 values]; 5 and 6: values [16 pairs, 16].
    tiles_.configure({{{count, 64}, {count, 64}, {count, 64}, {count, 64}, {count, 64}, {16, 64}, {16, 64}, {16, 64}}});
    finish_writing();
    const int64_t stride = value_width_ * sizeof(float);
    for (int64_t column = 0; column < value_width_; column += 64) {
      const bool wide = column + 32 < value_width_;
      float* results = sums_.data() + segment.begin * value_width_ + column;
      _tile_loadd(0, results, stride);
      _tile_loadd(1, results + 16, stride);
      if (wide) {
        _tile_loadd(2, results + 32, stride);
        _tile_loadd(3, results + 48, stride);
      }
      for (int64_t first = 0; first < segment.count; first += kKeys) {
        alignas(64) T pairs[4][1024];
        const int64_t here = std::min(kKeys, segment.count - first);
        const T* values = segment.values + first * value_width_ + column;
        // All before the first is loaded, which has to wait until it is written.
        for (int64_t half = 0; half < here; half += 32) {
          for (int64_t part = 0; part < (wide ? 2 : 1); ++part) {
            interleave(values + half * value_width_ + part * 32, std::min<int64_t>(32, here - half),
                       pairs[half / 16 + part]);
          }
        }
        finish_writing();
        for (int64_t half = 0; half < here; half += 32) {
          _tile_loadd(4, weights_.data() + segment.begin * places_ + segment.place + first + half, places_ * sizeof(T));
          _tile_loadd(5, pairs[half / 16], 64);
          _tile_dpbf16ps(0, 4, 5);
          _tile_loadd(6, pairs[half / 16] + 512, 64);
          _tile_dpbf16ps(1, 4, 6);
          if (!wide) continue;
          _tile_loadd(5, pairs[half / 16 + 1], 64);
          _tile_dpbf16ps(2, 4, 5);
          _tile_loadd(6, pairs[half / 16 + 1] + 512, 64);
          _tile_dpbf16ps(3, 4, 6);
        }
      }
      _tile_stored(0, results, stride);
      _tile_stored(1, results + 16, stride);
      if (!wide) continue;
      _tile_stored(2, results + 32, stride);
      _tile_stored(3, results + 48, stride);
    }
  }

  // 32 numbers of up to 32 values as two right factors [16 pairs of values, 16 numbers, 2], zeros after the last value;
  // in the order that is cheapest: of every eight numbers, the first factor has four, and the second the others.
  void interleave(const T* values, int64_t count, T* pairs) {
    const auto value = [&](int64_t i) {
      return i < count ? _mm512_loadu_si512(values + i * value_width_) : _mm512_setzero_si512();
    };
    for (int64_t pair = 0; pair < 16; ++pair) {
      const __m512i first = value(2 * pair), second = value(2 * pair + 1);
      _mm512_store_si512(pairs + 32 * pair, _mm512_unpacklo_epi16(first, second));
      _mm512_store_si512(pairs + 512 + 32 * pair, _mm512_unpackhi_epi16(first, second));
    }
  }

  // Undoes the order of `interleave` in the results.
  void order_sums(int64_t queries) {
    const Ints first{0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23};
    for (int64_t i = 0; i < queries * value_width_; i += 2 * kLanes) {
      const Floats low = load(sums_.data() + i), high = load(sums_.data() + i + kLanes);
      store(sums_.data() + i, __builtin_shuffle(low, high, first));
      store(sums_.data() + i + kLanes, __builtin_shuffle(low, high, first + 8));
    }
  }

  std::vector<T> pairs_, weights_;
#else
  static constexpr bool uses_tiles(int64_t, int64_t) { return false; }
  void make_pairs(const T*, int64_t) {}
  void score_by_tiles(const Segment<T>&) {}
  void round_weights(int64_t) {}
  void mix_by_tiles(const Segment<T>&) {}
  void order_sums(int64_t) {}
#endif

  const int64_t width_, value_width_, window_;
  const float scale_, softcap_;
  int64_t places_ = 0;  // of the scores of a query
  Tiles tiles_;
  std::vector<float> query_, scores_, factors_, block_, sums_;
  std::vector<T> padded_;
};

}  // namespace bottega
