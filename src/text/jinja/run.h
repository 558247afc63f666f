#pragma once
// Run: the state of one rendering: variables, output, where it is. One thread.

#include <ctime>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "text/jinja/print.h"
#include "text/jinja/value.h"

namespace flexgen::jinja {

/// Arguments of a call.
struct Args {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
  std::unique_ptr<Charge> charge = nullptr;  ///< for those that a list brings
};

class Run;

/// What can be called.
class Function : public Object {
 public:
  const char* type_name() const override { return "function"; }
  std::optional<Value> attribute(std::string_view) const override { return std::nullopt; }
  std::string text() const override { fail("a function has no text"); }
  virtual Value call(Run& run, Args& args) = 0;
};

/// Variables of a loop's turn, a macro's call, a block. Inner ones are looked up first.
struct Scope {
  explicit Scope(std::shared_ptr<Scope> outer);
  ~Scope();
  Scope(const Scope&) = delete;
  Scope& operator=(const Scope&) = delete;
  const Value* find(int name) const;
  void set(int name, Value value);
  std::shared_ptr<Scope> parent;
  std::vector<std::pair<int, Value>> variables;  ///< by the template's number of the name
  Budget* budget;
  int64_t counted = 0;
  int depth;
};

/// namespace(): the one thing that a template can change.
class Namespace : public Object {
 public:
  const char* type_name() const override { return "Namespace"; }
  std::optional<Value> attribute(std::string_view name) const override;
  std::string text() const override;
  ~Namespace() override;
  void set(const std::string& name, Value value);
  void clear() { items_.clear(); }

 private:
  std::vector<std::pair<std::string, Value>> items_;
  Budget* budget_ = Budget::current();
  int64_t counted_ = 0;
};

class Run {
 public:
  Run(const std::vector<std::string>& names, std::time_t now) : names_(names), now_(now) {}
  /// Lets go of what may hold itself.
  ~Run();
  Run(const Run&) = delete;
  Run& operator=(const Run&) = delete;

  const std::string& name(int number) const { return names_[static_cast<size_t>(number)]; }
  std::time_t now() const { return now_; }
  /// Something whose scope outlives its block was made in it.
  void capture(std::shared_ptr<Scope> held);
  std::shared_ptr<Namespace> make_namespace();

  int line = 1;         ///< of what is being evaluated
  bool strict = false;  ///< what is not there cannot be used, but for asking whether it is
  int depth = 0;
  std::shared_ptr<Scope> scope;
  /// What is printed goes there.
  GrowingText& out() { return *outputs_.back(); }

 private:
  const std::vector<std::string>& names_;
  std::time_t now_;
  std::vector<std::shared_ptr<Scope>> captured_;
  std::vector<std::shared_ptr<Namespace>> namespaces_;
  std::vector<std::unique_ptr<GrowingText>> outputs_;  ///< the innermost last
  friend class Captured;
};

/// One level deeper, as long as it exists.
class Deeper {
 public:
  explicit Deeper(Run& run) : run_(run) {
    step(1);
    if (++run_.depth > kMaxRunDepth) {
      --run_.depth;
      fail("expressions, blocks and calls are more than {} levels deep within each other", kMaxRunDepth);
    }
  }
  ~Deeper() { --run_.depth; }
  Deeper(const Deeper&) = delete;
  Deeper& operator=(const Deeper&) = delete;

 private:
  Run& run_;
};

/// A scope within the present one, as long as it exists.
class Inner {
 public:
  explicit Inner(Run& run) : Inner(run, run.scope) {}
  Inner(Run& run, std::shared_ptr<Scope> outer) : run_(run), kept_(run.scope) { run.scope = std::make_shared<Scope>(std::move(outer)); }
  ~Inner() { run_.scope = kept_; }
  Inner(const Inner&) = delete;
  Inner& operator=(const Inner&) = delete;

 private:
  Run& run_;
  std::shared_ptr<Scope> kept_;
};

/// Takes what is printed, as long as it exists.
class Captured {
 public:
  explicit Captured(Run& run) : run_(run) { run.outputs_.push_back(std::make_unique<GrowingText>()); }
  ~Captured() { run_.outputs_.pop_back(); }
  Captured(const Captured&) = delete;
  Captured& operator=(const Captured&) = delete;
  std::string take() { return run_.out().take(); }

 private:
  Run& run_;
};

}  // namespace flexgen::jinja
