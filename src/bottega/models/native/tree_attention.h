// Attention of the tokens of a batch to their ancestors in its prefix trees, forward and backward.
//
// Scores are never kept: the backward computes them again from the logarithm of their sum (as in FlashAttention, Dao et
// al. 2022, arXiv 2205.14135). With s = scale · q kᵀ, p = softmax(s), o = p v:
// ∂v = pᵀ ∂o, ∂p = ∂o vᵀ, ∂s = p · (∂p − Σ o ∂o), ∂q = scale · ∂s k, ∂k = scale · ∂sᵀ q.
// Dropout is of p in o and ∂v, and of ∂p.
//
// Legend: T tokens; h query heads, g key/value heads; D, E widths of keys and values; L queries of a node, S keys that
// they may see.
#pragma once

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "blocks.h"
#include "dropout.h"
#include "parallel.h"

namespace bottega {

// Nodes [M, 3] with first token, end and parent, a parent before its children and each tree as a whole; and of each
// token [T, 3] between which queries it is visible, and its position.
struct Forest {
  Forest(const at::Tensor& nodes, const at::Tensor& tokens)
      : nodes_(nodes.contiguous()),
        tokens_(tokens.contiguous()),
        node_(nodes_.const_data_ptr<int64_t>()),
        token_(tokens_.const_data_ptr<int64_t>()) {
    for (int64_t node = 0; node < nodes_.size(0); ++node) {
      if (parent(node) < 0) roots.push_back(node);
    }
    roots.push_back(nodes_.size(0));
    std::vector<bool> is_covered(tokens_.size(0));
    for (int64_t node = 0; node < this->nodes(); ++node)
      std::fill(is_covered.begin() + start(node), is_covered.begin() + end(node), true);
    for (int64_t token = 0; token < tokens_.size(0); ++token) {
      if (!is_covered[token]) padding.push_back(token);
    }
  }

  // Sets what a tensor [T, …] holds of padding to zero.
  void clear_padding(at::Tensor& tensor) const {
    const int64_t bytes = tensor.nbytes() / tensor.size(0);
    char* lines = static_cast<char*>(tensor.mutable_data_ptr());
    for (const int64_t token : padding) std::memset(lines + token * bytes, 0, bytes);
  }

  int64_t nodes() const { return nodes_.size(0); }
  int64_t tokens() const { return tokens_.size(0); }
  int64_t start(int64_t node) const { return node_[3 * node]; }
  int64_t end(int64_t node) const { return node_[3 * node + 1]; }
  int64_t parent(int64_t node) const { return node_[3 * node + 2]; }
  const int64_t* token(int64_t index) const { return token_ + 3 * index; }

  // All tokens from the root to the end of a node.
  std::vector<int64_t> path(int64_t node) const {
    std::vector<int64_t> tokens;
    for (; node >= 0; node = parent(node)) {
      for (int64_t token = end(node); token-- > start(node);) tokens.push_back(token);
    }
    std::reverse(tokens.begin(), tokens.end());
    return tokens;
  }

  std::vector<int64_t> roots;    // and the number of nodes
  std::vector<int64_t> padding;  // tokens of no node

 private:
  at::Tensor nodes_, tokens_;
  const int64_t *node_, *token_;
};

// One head of a tensor [T, heads, width].
template <typename T>
struct Head {
  Head(const at::Tensor& tensor, int64_t head)
      : data(const_cast<T*>(tensor.const_data_ptr<T>()) + head * tensor.size(2)),
        stride(tensor.size(1) * tensor.size(2)),
        width(tensor.size(2)) {}
  T* line(int64_t token) const { return data + token * stride; }

  T* data;
  int64_t stride, width;
};

// window  positions to either side that a query sees; all: 0
struct TreeOptions {
  double scale;
  int64_t window;
  Dropout dropout;
};

// What a thread needs for the attention of one head of a node after another.
//
// All of them are blocks of 32 lines, filled up with zeros. Legend: L queries of the node, S tokens of its path.
template <typename T, typename Blocks>
class NodeAttention {
 public:
  NodeAttention(const Forest& forest, const TreeOptions& options)
      : forest_(forest),
        scale_(static_cast<float>(options.scale)),
        window_(options.window),
        dropout_(options.dropout) {}

  // The keys and values that the queries of a node see; for the backward, also what that needs of them.
  void enter(int64_t node, const Head<T>& k, const Head<T>& v, bool backward) {
    path_ = forest_.path(node);
    first_ = forest_.start(node);
    count_ = forest_.end(node) - first_;
    width_ = k.width;
    value_width_ = v.width;
    const int64_t keys = path_.size();
    key_blocks_ = (keys + kSide - 1) / kSide;
    query_blocks_ = (count_ + kSide - 1) / kSide;
    for (auto* numbers : {&from_, &till_, &position_}) numbers->assign(key_blocks_ * kSide, 0);
    for (int64_t i = 0; i < keys; ++i) {
      const int64_t* token = forest_.token(path_[i]);
      from_[i] = static_cast<int32_t>(token[0]);
      till_[i] = static_cast<int32_t>(token[1]);
      position_[i] = static_cast<int32_t>(token[2]);
    }
    visible_.clear();
    for (int64_t block = 0; block < query_blocks_; ++block) visible_.push_back(visible_blocks(block));
    keys_.resize(key_blocks_ * kSide * width_);
    values_.resize(key_blocks_ * kSide * value_width_);
    for (int64_t i = 0; i < key_blocks_ * kSide; ++i) {
      copy(k, i < keys ? path_[i] : -1, i, keys_);
      copy(v, i < keys ? path_[i] : -1, i, values_);
    }
    make_row_panels(keys_, key_blocks_, width_, key_rows_);
    if (!backward) {
      value_columns_.resize(key_blocks_ * kSide * value_width_);
      make_column_panels(values_.data(), key_blocks_ * kSide, value_width_, value_columns_.data());
      return;
    }
    make_row_panels(values_, key_blocks_, value_width_, value_rows_);
    key_columns_.resize(key_blocks_ * kSide * width_);
    for (int64_t begin = 0; begin < key_blocks_; begin += kSpan) {
      const int64_t place = begin * kSide * width_, lines = std::min(kSpan, key_blocks_ - begin) * kSide;
      make_column_panels(keys_.data() + place, lines, width_, key_columns_.data() + place);
    }
  }

  // Writes out [T, E] and logs [T], the logarithms of the sums of the softmax, of one head.
  void forward(int64_t head, const Head<T>& q, const Head<T>& out, const Head<float>& logs) {
    head_ = head;
    const int64_t keys = key_blocks_ * kSide;
    take_queries(q, queries_);
    scores_.resize(kSide * keys);
    weights_.resize(kSide * keys);
    sums_.resize(kSide * value_width_);
    for (int64_t block = 0; block < query_blocks_; ++block) {
      const auto [begin, end] = visible_[block];
      const int64_t first = begin * kSide, depth = (end - begin) * kSide, count = queries_of(block);
      for (int64_t j = begin; j < end; ++j)
        blocks_.multiply(queries_.data() + block * kSide * width_, width_, width_,
                         key_rows_.data() + j * kSide * width_, scores_.data() + j * kSide, keys, false);
      float factors[kSide];
      for (int64_t i = 0; i < count; ++i)
        factors[i] = weigh(token_of(block, i), i * keys + first, first, depth, logs.line(token_of(block, i)));
      for (int64_t c = 0; c < value_width_; c += kSide)
        blocks_.multiply(weights_.data() + first, keys, depth, value_columns_.data() + c * keys + first * kSide,
                         sums_.data() + c, value_width_, false);
      for (int64_t i = 0; i < count; ++i) {
        T* line = out.line(token_of(block, i));
        for (int64_t c = 0; c < value_width_; c += kLanes)
          store(line + c, load(sums_.data() + i * value_width_ + c) * factors[i]);
      }
    }
  }

  // Writes d_q [T, D] of one head, and adds to d_k [T, D] and d_v [T, E] of the path.
  void backward(int64_t head, const Head<T>& q, const Head<T>& out, const Head<float>& logs, const Head<T>& d_out,
                const Head<T>& d_q, const Head<float>& d_k, const Head<float>& d_v) {
    const int64_t queries = query_blocks_ * kSide;
    head_ = head;
    take_queries(q, queries_);
    take_queries(d_out, d_outs_);
    query_columns_.resize(queries * width_);
    d_out_columns_.resize(queries * value_width_);
    make_column_panels(queries_.data(), queries, width_, query_columns_.data());
    make_column_panels(d_outs_.data(), queries, value_width_, d_out_columns_.data());
    d_queries_.resize(queries * width_);
    std::fill_n(d_queries_.data(), queries * width_, 0);
    along_out_.resize(queries);
    for (int64_t i = 0; i < count_; ++i)
      along_out_.data()[i] = product(out.line(first_ + i), d_out.line(first_ + i), value_width_);
    for (int64_t begin = 0; begin < key_blocks_; begin += kSpan)
      add_span(begin, std::min(key_blocks_, begin + kSpan), logs, d_k, d_v);
    for (int64_t i = 0; i < count_; ++i) {
      for (int64_t c = 0; c < width_; c += kLanes)
        store(d_q.line(first_ + i) + c, load(d_queries_.data() + i * width_ + c));
    }
  }

 private:
  using Number = typename Blocks::Number;
  static constexpr float kHidden = -std::numeric_limits<float>::infinity();
  static constexpr int64_t kSpan = 4;  // blocks of keys

  // Numbers of the node's queries as blocks of lines.
  void take_queries(const Head<T>& head, Buffer<Number>& blocks) {
    blocks.resize(query_blocks_ * kSide * head.width);
    for (int64_t i = 0; i < query_blocks_ * kSide; ++i) copy(head, i < count_ ? first_ + i : -1, i, blocks);
  }

  // A token's numbers as line `line` of blocks; zeros for token −1.
  static void copy(const Head<T>& head, int64_t token, int64_t line, Buffer<Number>& blocks) {
    Number* to = blocks.data() + line * head.width;
    if (token < 0) {
      std::fill_n(to, head.width, Number(0));
    } else if constexpr (std::is_same_v<T, Number>) {
      std::memcpy(to, head.line(token), head.width * sizeof(T));
    } else {
      for (int64_t c = 0; c < head.width; c += kLanes) store(to + c, load(head.line(token) + c));
    }
  }

  static void make_row_panels(const Buffer<Number>& lines, int64_t blocks, int64_t width, Buffer<Number>& panels) {
    panels.resize(blocks * kSide * width);
    for (int64_t i = 0; i < blocks * kSide * width; i += kSide * width)
      Blocks::panel_of_rows(lines.data() + i, width, panels.data() + i);
  }

  // The panels of each 32 columns of lines [lines, width], one after the other.
  static void make_column_panels(const Number* from, int64_t lines, int64_t width, Number* panels) {
    for (int64_t c = 0; c < width; c += kSide) Blocks::panel_of_columns(from + c, width, lines, panels + c * lines);
  }

  int64_t queries_of(int64_t block) const { return std::min(kSide, count_ - block * kSide); }
  int64_t token_of(int64_t block, int64_t query) const { return first_ + block * kSide + query; }

  // The first of the blocks of keys that some query of a block sees, and one past the last.
  std::pair<int64_t, int64_t> visible_blocks(int64_t block) const {
    const int64_t first = token_of(block, 0), last = first + queries_of(block) - 1;
    int64_t begin = path_.size(), end = 0;
    for (int64_t i = 0; i < static_cast<int64_t>(path_.size()); ++i) {
      if (from_[i] > last || first >= till_[i] || !is_near(i, first, last)) continue;
      begin = std::min(begin, i);
      end = i + 1;
    }
    return {begin / kSide, (end + kSide - 1) / kSide};
  }

  bool is_near(int64_t key, int64_t first, int64_t last) const {
    if (window_ == 0) return true;
    return position_[key] > forest_.token(first)[2] - window_ && position_[key] < forest_.token(last)[2] + window_;
  }

  // Of sixteen keys, those that a query sees.
  Ints visible(int64_t query, int64_t key) const {
    const auto from = loaded<Ints>(from_.data() + key), till = loaded<Ints>(till_.data() + key);
    const auto token = static_cast<int32_t>(query);
    const Ints seen = (from <= token) & (till > token);
    if (window_ == 0) return seen;
    const Ints distance = loaded<Ints>(position_.data() + key) - static_cast<int32_t>(forest_.token(query)[2]);
    const auto window = static_cast<int32_t>(window_);
    return seen & (distance < window) & (distance > -window);
  }

  // Which keys dropout keeps for a query.
  Dropout::Line kept_by(int64_t query) const { return {dropout_, head_ * forest_.tokens() + query}; }

  // Scores at `place` of a query and the keys from `first` on → weights, of which the largest is 1; returns what all
  // are to be multiplied with.
  float weigh(int64_t query, int64_t place, int64_t first, int64_t depth, float* log_of_sum) {
    float* scores = scores_.data() + place;
    Floats most = broadcast(kHidden);
    for (int64_t i = 0; i < depth; i += kLanes) {
      const Floats score = select(visible(query, first + i), load(scores + i) * scale_, broadcast(kHidden));
      most = maximum(most, score);
      store(scores + i, score);
    }
    const float largest = maximum(most);
    const Dropout::Line kept = kept_by(query);
    Floats total{};
    for (int64_t i = 0; i < depth; i += kLanes) {
      const Floats weight = exponential(load(scores + i) - largest);
      total += weight;
      store(weights_.data() + place + i, kept.keep(weight, first + i));
    }
    *log_of_sum = largest + std::log(sum(total));
    return 1 / sum(total);
  }

  // The gradients by way of the keys of some blocks: many at once, so that sums are long and seldom go to memory.
  void add_span(int64_t begin, int64_t end, const Head<float>& logs, const Head<float>& d_k, const Head<float>& d_v) {
    const int64_t keys = (end - begin) * kSide, queries = query_blocks_ * kSide, width = width_;
    gradients_.resize(kSide * keys);
    turned_weights_.resize(keys * queries);
    turned_gradients_.resize(keys * queries);
    int64_t first = query_blocks_, last = 0;
    for (int64_t block = 0; block < query_blocks_; ++block) {
      const int64_t from = std::max(begin, visible_[block].first), till = std::min(end, visible_[block].second);
      if (from >= till) continue;
      // Between the first and the last block of queries all weights are needed, also where they are zero.
      for (; last > 0 && last < block; ++last) hide(begin, end, last, begin);
      first = std::min(first, block);
      last = block + 1;
      hide(begin, from, block, begin);
      hide(till, end, block, begin);
      for (int64_t j = from; j < till; ++j) differentiate(block, j, begin, keys, logs);
      for (int64_t c = 0; c < width; c += kSide)
        blocks_.multiply(gradients_.data() + (from - begin) * kSide, keys, (till - from) * kSide,
                         key_columns_.data() + begin * kSide * width + c * keys + (from - begin) * kSide * kSide,
                         d_queries_.data() + block * kSide * width + c, width, true);
    }
    if (first >= last) return;
    for (int64_t j = begin; j < end; ++j) {
      const int64_t place = (j - begin) * kSide * queries + first * kSide, depth = (last - first) * kSide;
      add_lines(turned_weights_.data() + place, d_out_columns_, first, depth, j, d_v);
      add_lines(turned_gradients_.data() + place, query_columns_, first, depth, j, d_k);
    }
  }

  // Adds to the gradients of a block of keys or values the product of turned weights and lines of queries.
  void add_lines(const Number* turned, const Buffer<Number>& columns, int64_t first, int64_t depth, int64_t j,
                 const Head<float>& to) {
    const int64_t queries = query_blocks_ * kSide, end = std::min<int64_t>(path_.size(), (j + 1) * kSide);
    sums_.resize(kSide * to.width);
    for (int64_t c = 0; c < to.width; c += kSide)
      blocks_.multiply(turned, queries, depth, columns.data() + c * queries + first * kSide * kSide, sums_.data() + c,
                       to.width, false);
    for (int64_t i = j * kSide; i < end; ++i) add(sums_.data() + i % kSide * to.width, to.width, to.line(path_[i]));
  }

  // Weights and gradients of zero, turned, for some blocks of keys of the span from `begin` on.
  void hide(int64_t from, int64_t till, int64_t block, int64_t begin) {
    const int64_t queries = query_blocks_ * kSide;
    for (int64_t line = (from - begin) * kSide; line < (till - begin) * kSide; ++line) {
      std::fill_n(turned_weights_.data() + line * queries + block * kSide, kSide, Number(0));
      std::fill_n(turned_gradients_.data() + line * queries + block * kSide, kSide, Number(0));
    }
  }

  // Weights of a block of queries and one of keys, turned, and the gradients of their scores, both ways.
  void differentiate(int64_t block, int64_t j, int64_t begin, int64_t keys, const Head<float>& logs) {
    const int64_t width = width_, value_width = value_width_, queries = query_blocks_ * kSide;
    alignas(64) float weights[kSide * kSide], gradients[kSide * kSide], turned[kSide * kSide];
    blocks_.multiply(queries_.data() + block * kSide * width, width, width, key_rows_.data() + j * kSide * width,
                     weights, kSide, false);
    blocks_.multiply(d_outs_.data() + block * kSide * value_width, value_width, value_width,
                     value_rows_.data() + j * kSide * value_width, gradients, kSide, false);
    for (int64_t i = 0; i < kSide; ++i) {
      float *weight = weights + i * kSide, *gradient = gradients + i * kSide;
      if (i >= queries_of(block)) {
        std::fill_n(weight, kSide, 0);
        std::fill_n(gradient, kSide, 0);
        continue;
      }
      const int64_t token = token_of(block, i);
      const Dropout::Line kept = kept_by(token);
      const float log_of_sum = *logs.line(token), along_out = along_out_.data()[block * kSide + i];
      for (int64_t c = 0; c < kSide; c += kLanes) {
        const Floats p = exponential(load(weight + c) * scale_ - log_of_sum);
        const Floats seen = select(visible(token, j * kSide + c), p, Floats{});
        store(weight + c, kept.keep(seen, j * kSide + c));
        store(gradient + c, seen * (kept.keep(load(gradient + c), j * kSide + c) - along_out) * scale_);
      }
    }
    const int64_t place = (j - begin) * kSide;
    round(gradients, gradients_.data() + place, keys);
    transpose_block(weights, kSide, turned);
    round(turned, turned_weights_.data() + place * queries + block * kSide, queries);
    transpose_block(gradients, kSide, turned);
    round(turned, turned_gradients_.data() + place * queries + block * kSide, queries);
  }

  // A block into lines that lie `stride` apart.
  static void round(const float* from, Number* to, int64_t stride) {
    for (int64_t i = 0; i < kSide; ++i) {
      for (int64_t c = 0; c < kSide; c += kLanes) store(to + i * stride + c, load(from + i * kSide + c));
    }
  }

  static float product(const T* a, const T* b, int64_t width) {
    Floats total{};
    for (int64_t c = 0; c < width; c += kLanes) total += load(a + c) * load(b + c);
    return sum(total);
  }

  static void add(const float* from, int64_t width, float* to) {
    for (int64_t c = 0; c < width; c += kLanes) store(to + c, load(to + c) + load(from + c));
  }

  const Forest& forest_;
  const float scale_;
  const int64_t window_;
  const Dropout dropout_;
  Blocks blocks_;
  int64_t head_ = 0;
  int64_t first_ = 0, count_ = 0;  // of the queries
  int64_t query_blocks_ = 0, key_blocks_ = 0, width_ = 0, value_width_ = 0;
  std::vector<int64_t> path_;
  std::vector<int32_t> from_, till_, position_;       // of the tokens of the path
  std::vector<std::pair<int64_t, int64_t>> visible_;  // blocks of keys, of each block of queries
  Buffer<Number> queries_, keys_, values_, d_outs_;
  Buffer<Number> key_rows_, value_rows_;                                        // panels of lines
  Buffer<Number> value_columns_, key_columns_, query_columns_, d_out_columns_;  // panels of columns
  Buffer<Number> weights_, gradients_, turned_weights_, turned_gradients_;
  Buffer<float> scores_, sums_, along_out_, d_queries_;
};

// from [T, g · r, D] → to [T, g, D]: the sum over the r heads of a group.
template <typename T>
void add_groups(const at::Tensor& from, int64_t group, at::Tensor& to) {
  const int64_t width = to.size(2), lines = to.size(0) * to.size(1);
  const float* source = from.const_data_ptr<float>();
  T* target = to.mutable_data_ptr<T>();
  for_rows(lines, group * width, [&](int64_t line) {
    for (int64_t c = 0; c < width; c += kLanes) {
      Floats total{};
      for (int64_t i = 0; i < group; ++i) total += load(source + (line * group + i) * width + c);
      store(target + line * width + c, total);
    }
  });
}

// Calls run(Blocks) with the kind of blocks that fits numbers of type T.
template <typename T, typename Run>
void by_blocks(const Run& run) {
#ifdef __AMX_BF16__
  if constexpr (std::is_same_v<T, BFloat16>) {
    if (Tiles::allowed()) return run(TileBlocks{});
  }
#endif
  run(VectorBlocks{});
}

// Query heads with common keys that one task computes: all of them, unless there were too few tasks. Not by the number
// of threads, as it decides in which order gradients are summed.
inline int64_t heads_of_task(int64_t tasks_of_a_head, int64_t key_heads, int64_t group) {
  constexpr int64_t kEnough = 16;
  return tasks_of_a_head * key_heads >= kEnough ? group : 1;
}

// q [T, h, D], k [T, g, D], v [T, g, E] → out [T, h, E] and logs [T, h, 1]; padding is left as it is.
template <typename T>
void attend_to_trees(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Forest& forest,
                     const TreeOptions& options, at::Tensor& out, at::Tensor& logs) {
  const int64_t heads = q.size(1), group = heads / k.size(1), nodes = forest.nodes();
  const int64_t its_heads = heads_of_task(nodes, k.size(1), group), parts = heads / its_heads;
  by_blocks<T>([&](auto blocks) {
    share(nodes * parts, [&](const auto& take) {
      NodeAttention<T, decltype(blocks)> attention(forest, options);
      for (int64_t task; take(task);) {
        const int64_t first = task % parts * its_heads, key_head = first / group;
        attention.enter(task / parts, Head<T>(k, key_head), Head<T>(v, key_head), false);
        for (int64_t head = first; head < first + its_heads; ++head)
          attention.forward(head, Head<T>(q, head), Head<T>(out, head), Head<float>(logs, head));
      }
    });
  });
}

// The gradients of q, k and v from that of out. Those of k and v are summed in float32 for the heads of each task
// first.
template <typename T>
void attend_to_trees_backward(const at::Tensor& d_out, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                              const at::Tensor& out, const at::Tensor& logs, const Forest& forest,
                              const TreeOptions& options, at::Tensor& d_q, at::Tensor& d_k, at::Tensor& d_v) {
  const int64_t heads = q.size(1), group = heads / k.size(1), trees = forest.roots.size() - 1;
  const int64_t its_heads = heads_of_task(trees, k.size(1), group), parts = heads / its_heads;
  const auto wide = k.options().dtype(at::kFloat);
  at::Tensor all_d_k = at::empty({k.size(0), parts, k.size(2)}, wide),
             all_d_v = at::empty({v.size(0), parts, v.size(2)}, wide);
  for (at::Tensor* tensor : {&d_q, &all_d_k, &all_d_v}) forest.clear_padding(*tensor);
  by_blocks<T>([&](auto blocks) {
    share(trees * parts, [&](const auto& take) {
      NodeAttention<T, decltype(blocks)> attention(forest, options);
      for (int64_t task; take(task);) {
        const int64_t part = task % parts, first = part * its_heads, key_head = first / group;
        const int64_t begin = forest.roots[task / parts], end = forest.roots[task / parts + 1];
        const Head<float> its_d_k(all_d_k, part), its_d_v(all_d_v, part);
        for (int64_t node = begin; node < end; ++node) {
          for (int64_t token = forest.start(node); token < forest.end(node); ++token) {
            std::fill_n(its_d_k.line(token), its_d_k.width, 0);
            std::fill_n(its_d_v.line(token), its_d_v.width, 0);
          }
        }
        for (int64_t node = begin; node < end; ++node) {
          attention.enter(node, Head<T>(k, key_head), Head<T>(v, key_head), true);
          for (int64_t head = first; head < first + its_heads; ++head)
            attention.backward(head, Head<T>(q, head), Head<T>(out, head), Head<float>(logs, head),
                               Head<T>(d_out, head), Head<T>(d_q, head), its_d_k, its_d_v);
        }
      }
    });
  });
  add_groups<T>(all_d_k, parts / k.size(1), d_k);
  add_groups<T>(all_d_v, parts / v.size(1), d_v);
}

}  // namespace bottega
