#include "text/jinja/functions.h"

#include "text/jinja/methods.h"

namespace flexgen::jinja {
namespace {

constexpr size_t kMaxTimeBytes = 4096;

Value range(Run&, const Args& args) {
  const Bound bound(args, "range()", {"start", "stop", "step"}, 1);
  const int64_t start = bound.given(1) ? bound.integer(0, 0) : 0, stop = bound.given(1) ? bound.integer(1, 0) : bound.integer(0, 0),
                stride = bound.integer(2, 1);
  if (stride == 0) fail("range() arg 3 must not be zero");
  std::vector<Value> items;
  for (int64_t at = start; stride > 0 ? at < stop : at > stop;) {
    if (std::ssize(items) == kMaxRange) fail("Range too big. The sandbox blocks ranges larger than {}.", kMaxRange);
    items.emplace_back(at);
    if (__builtin_add_overflow(at, stride, &at)) break;
  }
  auto list = std::make_shared<List>(List::Form::kRange, std::move(items));
  list->start = start;
  list->stop = stop;
  list->stride = stride;
  return std::shared_ptr<const List>(std::move(list));
}

/// What dict() and namespace() are made of: a dict or pairs, then names.
std::vector<Dict::Item> given_items(const Args& args, const char* name) {
  if (args.positional.size() > 1) fail("{} expected at most 1 argument, got {}", name, args.positional.size());
  std::vector<Dict::Item> items;
  if (!args.positional.empty()) {
    if (const Dict* dict = args.positional[0].dict()) {
      items = dict->items();
    } else {
      for (const Value& item : items_of(args.positional[0])) {
        const std::vector<Value> pair = items_of(item);
        if (pair.size() != 2) fail("{}: an item has {} values; 2 are required", name, pair.size());
        items.emplace_back(pair[0], pair[1]);
      }
    }
  }
  for (const auto& [key, value] : args.named) items.emplace_back(key, value);
  return items;
}

Value make_namespace(Run& run, const Args& args) {
  auto space = run.make_namespace();
  for (const auto& [key, value] : given_items(args, "namespace()")) {
    if (!key.text()) fail("namespace(): a name is a '{}', not a text", type_name(key));
    space->set(key.text()->bytes, value);
  }
  return std::shared_ptr<Object>(space);
}

/// dict(), and dict.fromkeys().
class DictType : public Function {
 public:
  std::optional<Value> attribute(std::string_view name) const override {
    if (name != "fromkeys") return std::nullopt;
    return make_function("fromkeys", [](Run&, const Args& args) -> Value {
      const Bound bound(args, "fromkeys()", {"iterable", "value"}, 1);
      std::vector<Dict::Item> items;
      for (const Value& key : items_of(*bound[0])) items.emplace_back(key, bound.value(1));
      return make_dict(std::move(items));
    });
  }
  Value call(Run&, Args& args) override { return make_dict(given_items(args, "dict()")); }
};

/// Nothing at its first call, then the separator.
class Joiner : public Function {
 public:
  explicit Joiner(std::string separator) : separator_(std::move(separator)) {}
  Value call(Run&, Args&) override { return std::exchange(used_, true) ? separator_ : std::string(); }

 private:
  std::string separator_;
  bool used_ = false;
};

/// One of its items after the other.
class Cycler : public Function {
 public:
  explicit Cycler(std::shared_ptr<const List> items) : items_(std::move(items)), at_(std::make_shared<size_t>(0)) {}
  std::optional<Value> attribute(std::string_view name) const override {
    if (name == "current") return items_->items[*at_];
    if (name == "next") return Value(std::shared_ptr<Object>(std::make_shared<Cycler>(*this)));
    return std::nullopt;
  }
  Value call(Run&, Args&) override {
    const Value item = items_->items[*at_];
    *at_ = (*at_ + 1) % items_->items.size();
    return item;
  }

 private:
  std::shared_ptr<const List> items_;
  std::shared_ptr<size_t> at_;
};

Value make_joiner(Run&, const Args& args) {
  const Bound bound(args, "joiner()", {"sep"});
  return std::shared_ptr<Object>(std::make_shared<Joiner>(std::string(bound.text(0, ", "))));
}

Value make_cycler(Run&, const Args& args) {
  if (args.positional.empty()) fail("at least one item has to be provided");
  return std::shared_ptr<Object>(std::make_shared<Cycler>(std::make_shared<const List>(List::Form::kList, args.positional)));
}

Value raise_exception(Run&, const Args& args) {
  const Bound bound(args, "raise_exception()", {"message"}, 1);
  throw Failure(str(*bound[0]), true);
}

/// The time as datetime.now() has it on a machine of UTC: a date without a time zone, and the same on all machines.
Value strftime_now(Run& run, const Args& args) {
  const Bound bound(args, "strftime_now()", {"format"}, 1);
  std::string format(bound.text(0, ""));
  for (const auto& [old, by] : {std::pair("%f", "000000"), std::pair("%z", ""), std::pair("%Z", "")}) format = replaced(format, old, by, -1);
  if (format.empty()) return "";
  std::tm time{};
  const std::time_t now = run.now();
  gmtime_r(&now, &time);
  std::string out(kMaxTimeBytes, '\0');
  format += ' ';  // so that an empty result is told from a failure
  const size_t bytes = std::strftime(out.data(), out.size(), format.c_str(), &time);
  if (bytes == 0) fail("strftime_now: the date in the format would be longer than {} bytes", kMaxTimeBytes);
  out.resize(bytes - 1);
  return out;
}

}  // namespace

std::optional<Value> global_function(std::string_view name) {
  static constexpr std::pair<const char*, PlainFunction> kFunctions[] = {
      {"range", range},        {"namespace", make_namespace},        {"joiner", make_joiner},
      {"cycler", make_cycler}, {"raise_exception", raise_exception}, {"strftime_now", strftime_now}};
  if (name == "dict") return Value(std::shared_ptr<Object>(std::make_shared<DictType>()));
  for (const auto& [own, function] : kFunctions)
    if (name == own) return make_function(own, function);
  return std::nullopt;
}

}  // namespace flexgen::jinja
