#include "schedule/stream_order.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace flexgen {

StreamOrder::StreamOrder(const Model& model, std::vector<int64_t> streamed, int64_t buffers, bool chooses)
    : streamed_(std::move(streamed)), index_(model.layers().size(), -1), choices_(streamed_.size(), Choice::kUnknown), buffers_(buffers), chooses_(chooses) {
  for (size_t i = 0; i < streamed_.size(); ++i) {
    const auto layer = static_cast<size_t>(streamed_[i]);
    index_[layer] = static_cast<int64_t>(i);
    is_unit_.push_back(model.layers()[layer].kind == LayerKind::kExperts);
  }
}

void StreamOrder::begin_pass(int64_t pass, bool chooses) {
  pass_ = pass;
  chooses_ = chooses;
  std::fill(choices_.begin(), choices_.end(), Choice::kUnknown);
}

void StreamOrder::choose(int64_t first_layer, const std::vector<bool>& wanted) {
  for (size_t i = 0; i < wanted.size(); ++i) {
    const int64_t index = index_[static_cast<size_t>(first_layer) + i];
    if (index >= 0) choices_[static_cast<size_t>(index)] = wanted[i] ? Choice::kWanted : Choice::kNotWanted;
  }
}

StreamOrder::Object StreamOrder::take() {
  const std::optional<Object> object = next();
  FLEXGEN_CHECK(object.has_value(), "what is loaded next is not known yet");
  step();
  kept_.push_back(object->place);
  if (static_cast<int64_t>(kept_.size()) > buffers_) {
    kept_.erase(kept_.begin());
    ++first_kept_;
  }
  return *object;
}

void StreamOrder::check_is_due(const Visit& visit) {
  const std::optional<Object> object = next();
  FLEXGEN_CHECK(!loading_ && object && object->pass <= visit.pass, "layer {} of pass {} is not to be loaded", visit.layer, visit.pass);
}

}  // namespace flexgen
