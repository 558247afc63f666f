#pragma once
// What readers of calls of tools share: JSON within a text, and literals as models write them. All throw jinja::Failure for what they cannot read. Pure functions; any thread.

#include <string>
#include <string_view>
#include <vector>

#include "text/call_form.h"
#include "text/jinja/value.h"

namespace flexgen::call_text {

/// The calls of a text, and where they begin.
struct Found {
  size_t begin = 0;
  std::vector<ToolCall> calls;
};

std::string_view trimmed(std::string_view text);

/// Where the JSON object or list that the text begins with ends; npos if it does not.
size_t end_of_json(std::string_view text);
/// Where the JSON that stands at `at`, behind blanks or at once, ends, whatever its texts hold: a mark within one is none. `at` itself where there is none.
size_t behind_json(std::string_view text, size_t at);

/// A whole text of JSON. Arguments of calls are given on with the digits that the model wrote.
jinja::Value parsed(std::string_view json);
std::string json_of(const jinja::Value& value);
/// Arguments by their names.
std::string json_of(std::vector<jinja::Dict::Item> arguments);

/// Reads literals one behind the other: JSON's, Python's (True, None, 'a'), and texts between `quote`, if it is given.
class Literals {
 public:
  explicit Literals(std::string_view text, std::string_view quote = "") : text_(text), quote_(quote) {}

  jinja::Value value();
  /// Names with a value each behind `between`, up to `close`, with commas between them. Names may stand without quotes.
  std::vector<jinja::Dict::Item> members(char between, char close);
  /// Passes over blanks, and then what is said, if it comes.
  bool take(std::string_view what);
  /// Passes over all up to behind `mark`; false where it does not come any more.
  bool pass(std::string_view mark);
  void expect(std::string_view what);
  /// What stands before `mark`, without blanks around it; passes over both.
  std::string_view up_to(std::string_view mark);
  bool at_end();

 private:
  std::string quoted(char quote);
  std::string name(char between);
  std::string_view rest() const { return text_.substr(at_); }

  std::string_view text_, quote_;
  size_t at_ = 0;
  int depth_ = 0;
};

}  // namespace flexgen::call_text
