#include "text/jinja/loop.h"

namespace flexgen::jinja {

/// loop.cycle(a, b): one of its arguments a turn.
class Loop::Cycle : public Function {
 public:
  explicit Cycle(size_t index) : index_(index) {}
  Value call(Run&, Args& args) override {
    if (args.positional.empty()) fail("no items for cycling given");
    return args.positional[index_ % args.positional.size()];
  }

 private:
  size_t index_;
};

std::optional<Value> Loop::attribute(std::string_view name) const {
  const auto index = static_cast<int64_t>(index_), size = static_cast<int64_t>(items_.size());
  if (name == "index") return index + 1;
  if (name == "index0") return index;
  if (name == "revindex") return size - index;
  if (name == "revindex0") return size - index - 1;
  if (name == "first") return index == 0;
  if (name == "last") return index + 1 >= size;
  if (name == "length") return size;
  if (name == "depth") return 1;  // no loop calls itself
  if (name == "depth0") return 0;
  if (name == "previtem") return index > 0 ? items_[index_ - 1] : make_undefined("there is no previous item");
  if (name == "nextitem") return index + 1 < size ? items_[index_ + 1] : make_undefined("there is no next item");
  if (name == "cycle") return Value(std::shared_ptr<Object>(std::make_shared<Cycle>(index_)));
  return std::nullopt;
}

std::string Loop::text() const { return fmt::format("<LoopContext {}/{}>", index_ + 1, items_.size()); }

}  // namespace flexgen::jinja
