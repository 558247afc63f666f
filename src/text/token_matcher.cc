#include "text/token_matcher.h"

namespace flexgen {

TokenMatcher::TokenMatcher() : nodes_(1), first_(256, -1) {}

int32_t TokenMatcher::child_of(int32_t node, unsigned char byte) const {
  if (node == 0) return first_[byte];
  int32_t child = nodes_[static_cast<size_t>(node)].child;
  while (child >= 0 && nodes_[static_cast<size_t>(child)].byte != byte) child = nodes_[static_cast<size_t>(child)].sibling;
  return child;
}

int32_t TokenMatcher::next(int32_t node, unsigned char byte) const {
  for (;;) {
    const int32_t child = child_of(node, byte);
    if (child >= 0) return child;
    if (node == 0) return 0;
    node = nodes_[static_cast<size_t>(node)].fail;
  }
}

void TokenMatcher::add(std::string_view pattern) {
  int32_t node = 0;
  for (size_t i = pattern.size(); i-- > 0;) {
    const auto byte = static_cast<unsigned char>(pattern[i]);
    int32_t child = child_of(node, byte);
    if (child < 0) {
      child = static_cast<int32_t>(nodes_.size());
      nodes_.push_back({-1, nodes_[static_cast<size_t>(node)].child, 0, -1, byte});
      nodes_[static_cast<size_t>(node)].child = child;
      if (node == 0) first_[byte] = child;
    }
    node = child;
  }
  if (nodes_[static_cast<size_t>(node)].pattern < 0) nodes_[static_cast<size_t>(node)].pattern = static_cast<int32_t>(lengths_.size());
  lengths_.push_back(pattern.size());
}

void TokenMatcher::finish() {
  std::vector<int32_t> order{0};  // breadth first, so that a suffix is done before what it is a suffix of
  for (size_t i = 0; i < order.size(); ++i) {
    const int32_t node = order[i];
    for (int32_t child = nodes_[static_cast<size_t>(node)].child; child >= 0; child = nodes_[static_cast<size_t>(child)].sibling) {
      Node& entry = nodes_[static_cast<size_t>(child)];
      entry.fail = node == 0 ? 0 : next(nodes_[static_cast<size_t>(node)].fail, entry.byte);
      if (entry.pattern < 0) entry.pattern = nodes_[static_cast<size_t>(entry.fail)].pattern;
      order.push_back(child);
    }
  }
}

void TokenMatcher::for_each(std::string_view text, const std::function<void(size_t, size_t, size_t)>& match) const {
  if (lengths_.empty()) return;
  struct Found {
    size_t begin;
    int32_t pattern;
  };
  std::vector<Found> found;  // the last place first
  int32_t node = 0;
  for (size_t at = text.size(); at-- > 0;) {
    node = next(node, static_cast<unsigned char>(text[at]));
    if (int32_t pattern = nodes_[static_cast<size_t>(node)].pattern; pattern >= 0) found.push_back({at, pattern});
  }
  size_t done = 0;
  for (size_t i = found.size(); i-- > 0;) {
    if (found[i].begin < done) continue;
    const auto pattern = static_cast<size_t>(found[i].pattern);
    done = found[i].begin + lengths_[pattern];
    match(found[i].begin, done, pattern);
  }
}

}  // namespace flexgen
