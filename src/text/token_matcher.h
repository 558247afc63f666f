#pragma once
// TokenMatcher: finds any of many texts, leftmost first, then longest (Aho and Corasick 1975, run from the end so that each
// place knows the longest pattern that begins there). Immutable after finish(); any thread.

#include <cstdint>
#include <functional>
#include <string_view>
#include <vector>

namespace flexgen {

class TokenMatcher {
 public:
  TokenMatcher();
  /// Patterns are numbered from 0 in the order of add(). Of two equal ones the first is found.
  void add(std::string_view pattern);
  void finish();

  /// Calls match(begin, end, pattern) for matches that do not overlap, in order. Linear in the text, whatever the patterns.
  void for_each(std::string_view text, const std::function<void(size_t, size_t, size_t)>& match) const;

 private:
  struct Node {
    int32_t child = -1, sibling = -1;  ///< first child, next child of the parent
    int32_t fail = 0;                  ///< the longest proper suffix that is a node
    int32_t pattern = -1;              ///< the longest pattern that ends here
    unsigned char byte = 0;
  };
  int32_t child_of(int32_t node, unsigned char byte) const;
  int32_t next(int32_t node, unsigned char byte) const;

  std::vector<Node> nodes_;
  std::vector<int32_t> first_;   ///< the root's children by byte
  std::vector<size_t> lengths_;  ///< of each pattern, bytes
};

}  // namespace flexgen
