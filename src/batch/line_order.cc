#include "batch/line_order.h"

#include <algorithm>
#include <limits>

namespace flexgen {

LineOrder::LineOrder(const BatchInput& input, const LineSet& lines, bool shares, const std::string& directory)
    : lines_({directory, "the order of the lines"}), same_({directory, "the order of the lines"}), shares_(shares) {
  if (!shares) {
    LineWalk walk(input, lines);
    while (const std::optional<int64_t> line = walk.next()) add({*line, input.line(*line).num_sequences});
    return;
  }
  // What is not given out may lie between two lines: these share what all from the one to the other do.
  int64_t least_shared = std::numeric_limits<int64_t>::max(), last_same_as = -1;
  input.in_shared_order([&](const PlacedPrompt& placed) {
    least_shared = std::min(least_shared, placed.shared_tokens);
    if (!lines.contains(placed.prompt)) return;
    const InputLine line = input.line_anywhere(placed.prompt);
    if (line.same_as >= 0 && line.same_as == last_same_as) {
      LineToDo with_choices = lines_[size() - 1];
      ++with_choices.num_same;
      lines_.set(size() - 1, with_choices);
      same_.push_back({placed.prompt, placed.shared_tokens});
      return;
    }
    last_same_as = line.same_as;
    const int64_t shared = size() == 0 ? 0 : least_shared;
    least_shared = std::numeric_limits<int64_t>::max();
    add({placed.prompt, line.num_sequences / line.copies, shared, shared, placed.shared_tokens, same_.size(), 0});
  });
}

void LineOrder::add(const LineToDo& line) {
  if (size() > 0 && line.shared_tokens > 0) {
    LineToDo before = lines_[size() - 1];
    if (line.shared_tokens > before.prefix_tokens) {
      before.prefix_tokens = line.shared_tokens;
      lines_.set(size() - 1, before);
    }
  }
  LineToDo placed = line;
  placed.place = size();
  lines_.push_back(placed);
  num_sequences_ += line.num_sequences;
}

Workload workload_of(const BatchInput& input, const LineOrder& lines, const ExpectedAnswers& expected, int64_t page_tokens) {
  Workload work;
  const auto whole_pages = [&](int64_t tokens) { return tokens / page_tokens * page_tokens; };
  for (int64_t i = 0; i < lines.size(); ++i) {
    const LineToDo to_do = lines[i];
    InputLine line = input.line_anywhere(to_do.line);
    if (lines.shares()) {
      line.prompt_tokens /= line.copies;
      line.num_sequences /= line.copies;
    } else {
      line.inside_prefix = line.inside_shared = 0;
    }
    // Of the prompts of one line the sum and the longest are known: the others share the rest.
    int64_t rest = line.prompt_tokens - line.longest_prompt, rest_shared = line.inside_shared;
    const int64_t answer = expected(i, line.max_tokens);
    work.reads_logits = work.reads_logits || line.wants_logprobs;
    work.logprob_bytes = std::max(work.logprob_bytes, line.logprob_bytes);
    work.add(line.longest_prompt, line.max_tokens, line.keeps_logits, line.scored, answer,
             {whole_pages(std::max(to_do.prefix_tokens, line.inside_prefix)), whole_pages(to_do.shared_tokens)});
    for (int64_t left = line.num_sequences - 1; left > 0; --left) {
      const int64_t share = rest / left, shared = rest_shared / left;
      work.add(share, line.max_tokens, line.keeps_logits, line.scored, answer, {whole_pages(shared), whole_pages(shared)});
      rest -= share;
      rest_shared -= shared;
    }
  }
  return work;
}

Workload workload_of_input(const BatchInput& input, bool shares, const ExpectedAnswers& expected, int64_t page_tokens, const std::string& directory) {
  LineSet good(directory);
  for (int64_t i = 0; i < input.num_lines(); ++i) good.add(input.line(i).good());
  return workload_of(input, LineOrder(input, good, shares, directory), expected, page_tokens);
}

}  // namespace flexgen
