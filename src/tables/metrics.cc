#include "tables/metrics.h"

#include <fmt/format.h>

#include <limits>
#include <nlohmann/json.hpp>

namespace flexgen {

void Metrics::add(const std::string& expected, const std::optional<std::string>& answered) {
  ++count_;
  const bool right = answered == expected;
  right_ += right;
  if (too_many_) return;
  if (positive_.empty() || expected == positive_) {
    Label& label = labels_[expected];
    ++label.expected;
    label.right += right;
  }
  if (answered && (positive_.empty() || *answered == positive_)) ++labels_[*answered].answered;
  if (labels_.size() <= kMaxLabels) return;
  too_many_ = true;
  labels_.clear();
}

double Metrics::accuracy() const { return count_ == 0 ? std::numeric_limits<double>::quiet_NaN() : static_cast<double>(right_) / static_cast<double>(count_); }

Metrics::Scores Metrics::scores_of(const Label& label) {
  const auto ratio = [](double part, double whole) { return whole == 0 ? 0.0 : part / whole; };
  const auto right = static_cast<double>(label.right), answered = static_cast<double>(label.answered), expected = static_cast<double>(label.expected);
  return {ratio(right, answered), ratio(right, expected), ratio(2 * right, answered + expected), 1};
}

std::optional<Metrics::Scores> Metrics::scores() const {
  Scores mean;
  for (const auto& [name, label] : labels_) {
    if (label.expected == 0 && !positive_.empty()) continue;
    const Scores one = scores_of(label);
    mean = {mean.precision + one.precision, mean.recall + one.recall, mean.f1 + one.f1, mean.labels + 1};
  }
  if (mean.labels == 0) return std::nullopt;
  const auto count = static_cast<double>(mean.labels);
  return Scores{mean.precision / count, mean.recall / count, mean.f1 / count, mean.labels};
}

std::string Metrics::sentence() const {
  std::string text = fmt::format("accuracy {:.3f} ({} of {})", accuracy(), right_, count_);
  if (const std::optional<Scores> found = scores())
    text += fmt::format(", precision {:.3f}, recall {:.3f}, F1 {:.3f} ({})", found->precision, found->recall, found->f1,
                        positive_.empty() ? fmt::format("mean of {} labels", found->labels) : fmt::format("of '{}'", positive_));
  else if (too_many_) text += fmt::format("; more than {} different answers, so no precision, recall and F1", kMaxLabels);
  else if (!positive_.empty()) text += fmt::format("; no row has the right answer '{}', so no precision, recall and F1 of it", positive_);
  return text + "\n";
}

nlohmann::ordered_json Metrics::json() const {
  nlohmann::ordered_json json{{"rows", count_}, {"right", right_}, {"accuracy", count_ == 0 ? nlohmann::ordered_json() : nlohmann::ordered_json(accuracy())}};
  const std::optional<Scores> found = scores();
  json["precision"] = found ? nlohmann::ordered_json(found->precision) : nlohmann::ordered_json();
  json["recall"] = found ? nlohmann::ordered_json(found->recall) : nlohmann::ordered_json();
  json["f1"] = found ? nlohmann::ordered_json(found->f1) : nlohmann::ordered_json();
  json["labels"] = positive_.empty() ? nlohmann::ordered_json(found ? found->labels : 0) : nlohmann::ordered_json(positive_);
  return json;
}

}  // namespace flexgen
