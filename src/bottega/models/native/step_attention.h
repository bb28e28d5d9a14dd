// The attention of one forward of continuous batching: rows that are decoded, one token each, and rows that are read.
//
// Legend: B decoded rows, T tokens of the forward: theirs, then those of each reading; g key/value heads, r queries of
// one.
#pragma once

#include <ATen/ATen.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "attention.h"
#include "parallel.h"

namespace bottega {

struct AttentionOptions {
  double scale;
  int64_t window;  // 0: none
  double softcap;  // 0: none
  std::optional<at::Tensor> sinks;
};

// Where the keys and values of one layer lie, as `attention.native_step` lists it: tensors with those of many layers,
// this one's at a place of theirs; and what is the same for all layers as a plan of integers.
class StepCache {
 public:
  StepCache(const std::vector<at::Tensor>& memory, at::IntArrayRef plan, int64_t key_place, int64_t value_place)
      : key_place(key_place), value_place(value_place), memory_(memory.data()), plan_(plan.begin()) {
    const int64_t banks = number(), rows = number(), prefixes = number(), readings = number(), all_contexts = number();
    bank_rows = numbers(banks);
    lengths = numbers(rows);
    prefix_of = numbers(rows);
    done = numbers(readings);
    counts = numbers(readings);
    contexts = numbers(readings);
    bank_keys = tensors(banks);
    bank_values = tensors(banks);
    prefix_keys = tensors(prefixes);
    prefix_values = tensors(prefixes);
    reading_keys = tensors(readings);
    reading_values = tensors(readings);
    context_keys = tensors(all_contexts);
    context_values = tensors(all_contexts);
    TORCH_CHECK(memory_ == memory.data() + memory.size() && plan_ == plan.end(),
                "the plan of a forward does not fit its memory");
  }

  int64_t key_place, value_place;
  at::IntArrayRef bank_rows;                              // decoded rows of each bank
  at::IntArrayRef lengths;                                // [B] tokens of each row's tail before this forward
  at::IntArrayRef prefix_of;                              // [B] the prefix of each row; −1: none
  at::IntArrayRef done, counts;                           // tokens of each reading before and in this forward
  at::IntArrayRef contexts;                               // texts before each reading
  at::ArrayRef<at::Tensor> bank_keys, bank_values;        // [P, R, g, C, D] each
  at::ArrayRef<at::Tensor> prefix_keys, prefix_values;    // [P, g, S, D] each
  at::ArrayRef<at::Tensor> reading_keys, reading_values;  // [P, g, L, D] of each reading
  at::ArrayRef<at::Tensor> context_keys, context_values;  // [P, g, S, D] of all texts before readings

 private:
  int64_t number() { return *plan_++; }

  at::IntArrayRef numbers(int64_t count) {
    plan_ += count;
    return {plan_ - count, static_cast<size_t>(count)};
  }

  at::ArrayRef<at::Tensor> tensors(int64_t count) {
    memory_ += count;
    return {memory_ - count, static_cast<size_t>(count)};
  }

  const at::Tensor* memory_;
  const int64_t* plan_;
};

// Keys or values [g, …, D] of some tokens: what lies between two heads may be longer than they are.
template <typename T>
struct Heads {
  // At a place of a tensor [P, g, …, D]; or of one [P, R, g, …, D], in a slot of R.
  Heads(const at::Tensor& tensor, int64_t place, int64_t slot = 0)
      : data(const_cast<T*>(tensor.const_data_ptr<T>()) + place * tensor.stride(0) +
             (tensor.dim() > 4 ? slot * tensor.stride(1) : 0)),
        stride(tensor.stride(-3)) {}

  T* head(int64_t index) const { return data + index * stride; }

  T* data;
  int64_t stride;
};

// Computes out [T, h, D] from q [T, h, D], k and v [T, g, D], which are stored first.
template <typename T>
class StepAttention {
 public:
  StepAttention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const StepCache& cache,
                const AttentionOptions& options, at::Tensor& out)
      : q_(q.contiguous()),
        k_(k.contiguous()),
        v_(v.contiguous()),
        cache_(cache),
        options_(options),
        out_(out),
        heads_(k.size(1)),
        group_(q.size(1) / heads_),
        width_(k.size(2)),
        value_width_(v.size(2)) {
    if (options.sinks) sinks_ = options.sinks->to(at::kFloat).contiguous();
    make_parts();
    make_tasks();
  }

  void run() {
    const int64_t parts = parts_.size(), tasks = tasks_.size();
    for_each(parts * heads_, [&](int64_t number) { store_new(parts_[number % parts], number / parts); });
    share(tasks * heads_, [&](const auto& take) {
      TaskAttention<T> attention(width_, value_width_, options_.scale, options_.window, options_.softcap);
      Space space;
      // Head after head, so that rows with a common text read one head of it after each other.
      for (int64_t number; take(number);) attend(tasks_[number % tasks], number / tasks, attention, space);
    });
  }

 private:
  // A row: `count` tokens from `token` of the forward on, `done` of its own before them, after other texts.
  struct Part {
    int64_t token, count, done, before;
    Heads<T> keys, values;  // its own
    int64_t prefix = -1, first_context = 0, contexts = 0;
  };
  // Tokens of a row, or the newest tokens of rows with a common prefix.
  struct Task {
    std::vector<const Part*> parts;
    int64_t from = 0, to = 1;  // of the tokens of each
  };
  struct Space {
    std::vector<Segment<T>> segments;
    std::vector<T> q, out;
    std::vector<float> sinks;
    std::vector<int64_t> positions;
  };

  Heads<T> keys(const at::Tensor& tensor, int64_t slot = 0) const { return {tensor, cache_.key_place, slot}; }
  Heads<T> values(const at::Tensor& tensor, int64_t slot = 0) const { return {tensor, cache_.value_place, slot}; }

  void make_parts() {
    int64_t row = 0;
    for (size_t bank = 0; bank < cache_.bank_keys.size(); ++bank) {
      for (int64_t slot = 0; slot < cache_.bank_rows[bank]; ++slot, ++row) {
        const int64_t prefix = cache_.prefix_of[row], before = prefix < 0 ? 0 : cache_.prefix_keys[prefix].size(2);
        parts_.push_back({row, 1, cache_.lengths[row], before, keys(cache_.bank_keys[bank], slot),
                          values(cache_.bank_values[bank], slot), prefix});
      }
    }
    decoded_ = row;
    int64_t token = row, context = 0;
    for (size_t i = 0; i < cache_.counts.size(); ++i) {
      int64_t before = 0;
      for (int64_t j = 0; j < cache_.contexts[i]; ++j) before += cache_.context_keys[context + j].size(2);
      parts_.push_back({token, cache_.counts[i], cache_.done[i], before, keys(cache_.reading_keys[i]),
                        values(cache_.reading_values[i]), -1, context, cache_.contexts[i]});
      token += cache_.counts[i];
      context += cache_.contexts[i];
    }
  }

  void make_tasks() {
    const int64_t most = std::max<int64_t>(1, TaskAttention<T>::best_queries(width_, value_width_) / group_);
    for (int64_t row = 0; row < decoded_; ++row) {
      const Part& part = parts_[row];
      const auto open = std::find_if(tasks_.begin(), tasks_.end(), [&](const Task& task) {
        return part.prefix >= 0 && task.parts[0]->prefix == part.prefix &&
               static_cast<int64_t>(task.parts.size()) < most;
      });
      if (open == tasks_.end()) {
        tasks_.push_back({{&part}});
      } else {
        open->parts.push_back(&part);
      }
    }
    for (size_t i = decoded_; i < parts_.size(); ++i) {
      const int64_t count = parts_[i].count;
      // The last first: they take longest.
      for (int64_t to = count; to > 0; to -= most)
        tasks_.push_back({{&parts_[i]}, std::max<int64_t>(0, to - most), to});
    }
  }

  void store_new(const Part& part, int64_t head) {
    T *to_keys = part.keys.head(head) + part.done * width_,
      *to_values = part.values.head(head) + part.done * value_width_;
    for (int64_t i = 0; i < part.count; ++i) {
      const int64_t pair = (part.token + i) * heads_ + head;
      std::copy_n(k_.const_data_ptr<T>() + pair * width_, width_, to_keys + i * width_);
      std::copy_n(v_.const_data_ptr<T>() + pair * value_width_, value_width_, to_values + i * value_width_);
    }
  }

  void attend(const Task& task, int64_t head, TaskAttention<T>& attention, Space& space) {
    space.positions.clear();
    space.q.clear();
    space.sinks.clear();
    const int64_t line = group_ * width_, value_line = group_ * value_width_;
    for_tokens(task, [&](const Part& part, int64_t i) {
      const T* q = q_.const_data_ptr<T>() + ((part.token + i) * heads_ + head) * line;
      space.q.insert(space.q.end(), q, q + line);
      space.positions.insert(space.positions.end(), group_, part.before + part.done + i);
      if (!options_.sinks) return;
      const float* sinks = sinks_.const_data_ptr<float>() + head * group_;
      space.sinks.insert(space.sinks.end(), sinks, sinks + group_);
    });
    find_segments(task, head, space);
    space.out.resize(space.positions.size() * value_width_);
    attention.attend(space.q.data(), space.positions, space.segments, options_.sinks ? space.sinks.data() : nullptr,
                     space.out.data());
    const T* result = space.out.data();
    for_tokens(task, [&](const Part& part, int64_t i) {
      std::copy_n(result, value_line, out_.mutable_data_ptr<T>() + ((part.token + i) * heads_ + head) * value_line);
      result += value_line;
    });
  }

  template <typename Run>
  void for_tokens(const Task& task, const Run& run) {
    for (const Part* part : task.parts) {
      for (int64_t i = task.from; i < task.to; ++i) run(*part, i);
    }
  }

  void find_segments(const Task& task, int64_t head, Space& space) {
    space.segments.clear();
    const auto [least, most] = std::minmax_element(space.positions.begin(), space.positions.end());
    const int64_t first = options_.window > 0 ? *least + 1 - options_.window : 0, last = *most;
    const int64_t queries = space.positions.size();
    int64_t place = 0;
    const auto add = [&](const Heads<T>& its_keys, const Heads<T>& its_values, int64_t start, int64_t count,
                         int64_t begin, int64_t end) {
      const Segment<T> all{its_keys.head(head), its_values.head(head), start, count, begin, end, place};
      const Segment<T> seen = all.within(first, last, width_, value_width_);
      if (seen.count) space.segments.push_back(seen);
      return TaskAttention<T>::whole_blocks(seen.count);
    };
    const Part& one = *task.parts[0];
    if (one.prefix >= 0)
      place += add(keys(cache_.prefix_keys[one.prefix]), values(cache_.prefix_values[one.prefix]), 0, one.before, 0,
                   queries);
    int64_t start = 0;
    for (int64_t i = one.first_context; i < one.first_context + one.contexts; ++i) {
      const int64_t count = cache_.context_keys[i].size(2);
      place += add(keys(cache_.context_keys[i]), values(cache_.context_values[i]), start, count, 0, queries);
      start += count;
    }
    // The tails of rows with a common prefix lie side by side: each is seen by its own queries.
    int64_t begin = 0;
    for (const Part* part : task.parts) {
      const int64_t end = begin + (task.to - task.from) * group_;
      add(part->keys, part->values, part->before, part->done + task.to, begin, end);
      begin = end;
    }
  }

  const at::Tensor q_, k_, v_;
  const StepCache& cache_;
  const AttentionOptions& options_;
  at::Tensor& out_;
  at::Tensor sinks_;
  const int64_t heads_, group_, width_, value_width_;
  int64_t decoded_ = 0;
  std::vector<Part> parts_;
  std::vector<Task> tasks_;
};

}  // namespace bottega
