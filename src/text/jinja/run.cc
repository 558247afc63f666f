#include "text/jinja/run.h"

#include <algorithm>

namespace flexgen::jinja {
namespace {

constexpr int kMaxScopes = 1000;  // within each other: macros that are made in macros
constexpr size_t kMaxHeld = 100'000;

}  // namespace

Scope::Scope(std::shared_ptr<Scope> outer) : parent(std::move(outer)), budget(Budget::current()), depth(parent ? parent->depth + 1 : 0) {
  if (depth > kMaxScopes) fail("blocks and macros are made more than {} levels deep within each other", kMaxScopes);
}

Scope::~Scope() {
  if (budget) budget->give_back(counted);
}

const Value* Scope::find(int name) const {
  for (const Scope* scope = this; scope; scope = scope->parent.get())
    for (const auto& [number, value] : scope->variables)
      if (number == name) return &value;
  return nullptr;
}

void Scope::set(int name, Value value) {
  for (auto& [number, old] : variables)
    if (number == name) {
      old = std::move(value);
      return;
    }
  constexpr int64_t kBytes = 2 * sizeof(variables.front());
  if (budget) budget->take(kBytes);
  counted += budget ? kBytes : 0;
  variables.emplace_back(name, std::move(value));
}

Namespace::~Namespace() {
  if (budget_) budget_->give_back(counted_);
}

std::optional<Value> Namespace::attribute(std::string_view name) const {
  for (const auto& [own, value] : items_)
    if (own == name) return value;
  return std::nullopt;
}

std::string Namespace::text() const { fail("a namespace has no text; print its attributes"); }

void Namespace::set(const std::string& name, Value value) {
  if (name.starts_with('_')) fail("a namespace takes no attribute '{}', which begins with an underscore", name);
  step(static_cast<int64_t>(items_.size() / 8));
  for (auto& [own, old] : items_)
    if (own == name) {
      old = std::move(value);
      return;
    }
  const auto bytes = static_cast<int64_t>(2 * sizeof(items_.front()) + name.size());
  if (budget_) budget_->take(bytes);
  counted_ += budget_ ? bytes : 0;
  items_.emplace_back(name, std::move(value));
}

Run::~Run() {
  for (auto& space : namespaces_) space->clear();
  // The last first: each one's outer scope is still held here when it goes.
  for (auto held = captured_.rbegin(); held != captured_.rend(); ++held) (*held)->variables.clear();
  while (!captured_.empty()) captured_.pop_back();
}

void Run::capture(std::shared_ptr<Scope> held) {
  if (!captured_.empty() && captured_.back() == held) return;
  if (captured_.size() == kMaxHeld) fail("the template makes more than {} macros", kMaxHeld);
  captured_.push_back(std::move(held));
}

std::shared_ptr<Namespace> Run::make_namespace() {
  if (namespaces_.size() == kMaxHeld) fail("the template makes more than {} namespaces", kMaxHeld);
  return namespaces_.emplace_back(std::make_shared<Namespace>());
}

}  // namespace flexgen::jinja
