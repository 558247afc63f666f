#pragma once
// Metrics: answers against what is right: accuracy, precision, recall, F1. One thread.

#include <cstdint>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

namespace flexgen {

class Metrics {
 public:
  /// More different answers than that have no precision, recall and F1 of their own.
  static constexpr size_t kMaxLabels = 1000;

  /// `positive`: precision, recall and F1 are of this label; empty: the mean of those of all labels that are right somewhere or were answered (scikit-learn's macro average).
  explicit Metrics(std::string positive) : positive_(std::move(positive)) {}

  /// Both without blanks around them. Nothing: there is no answer, which is wrong.
  void add(const std::string& expected, const std::optional<std::string>& answered);

  int64_t count() const { return count_; }
  int64_t right() const { return right_; }
  /// NaN for a ratio of nothing; so below.
  double accuracy() const;
  struct Scores {
    double precision = 0, recall = 0, f1 = 0;  ///< as usual 0 where nothing was answered so
    size_t labels = 0;                         ///< that they are the mean of
  };
  /// None where there are too many labels, or no row has the positive one.
  std::optional<Scores> scores() const;

  /// "accuracy 0.912 (83 of 91), precision ..., of 'Yes'\n".
  std::string sentence() const;
  nlohmann::ordered_json json() const;

 private:
  struct Label {
    int64_t expected = 0, answered = 0, right = 0;
  };
  static Scores scores_of(const Label& label);

  std::string positive_;
  int64_t count_ = 0, right_ = 0;
  std::map<std::string, Label> labels_;
  bool too_many_ = false;
};

}  // namespace flexgen
