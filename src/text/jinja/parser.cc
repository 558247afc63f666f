#include "text/jinja/parser.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <initializer_list>
#include <map>

#include "text/jinja/filters.h"
#include "text/jinja/lexer.h"
#include "text/jinja/loop.h"
#include "text/jinja/operators.h"
#include "text/jinja/tests.h"

namespace flexgen::jinja {
namespace {

using Kind = Token::Kind;
using Words = std::initializer_list<const char*>;

/// Filters, attributes and calls behind each other: each is one level of the tree.
constexpr int kMaxChain = 100;

/// A token for a message.
std::string shown(const Token& token) {
  switch (token.kind) {
    case Kind::kEnd: return "the end of the template";
    case Kind::kBlockEnd: return "'%}'";
    case Kind::kPrintEnd: return "'}}'";
    case Kind::kText: return "a text";
    default: return fmt::format("'{}'", token.text.substr(0, 40));
  }
}

class Parser {
 public:
  explicit Parser(std::string_view source) : tokens_(tokenize(source)) {}

  Syntax run() {
    Syntax syntax;
    syntax.body = block({});
    syntax.names = std::move(names_);
    return syntax;
  }

 private:
  const Token& here() const { return tokens_[at_]; }
  const Token& behind() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }
  Token take() {
    Token token = here();
    if (here().kind != Kind::kEnd) ++at_;
    return token;
  }
  [[noreturn]] void refuse(const std::string& what) const { refuse_at(here().line, what); }
  [[noreturn]] static void refuse_at(int line, const std::string& what) { throw SyntaxError(line, what); }

  bool skip_operator(std::string_view sign) {
    if (!here().is_operator(sign)) return false;
    ++at_;
    return true;
  }
  bool skip_name(std::string_view name) {
    if (!here().is_name(name)) return false;
    ++at_;
    return true;
  }
  void expect_operator(std::string_view sign) {
    if (!skip_operator(sign)) refuse(fmt::format("'{}' is expected, not {}", sign, shown(here())));
  }
  std::string expect_name() {
    if (here().kind != Kind::kName) refuse(fmt::format("a name is expected, not {}", shown(here())));
    return take().text;
  }
  void expect(Kind kind, const char* what) {
    if (here().kind != kind) refuse(fmt::format("{} is expected, not {}", what, shown(here())));
    ++at_;
  }

  int number_of(const std::string& name) {
    auto [place, fresh] = numbers_.emplace(name, static_cast<int>(names_.size()));
    if (fresh) names_.push_back(name);
    return place->second;
  }

  /// One level deeper in the grammar.
  class Level {
   public:
    explicit Level(Parser& parser) : parser_(parser) {
      if (++parser_.depth_ > kMaxSyntaxDepth) parser_.refuse(fmt::format("expressions or blocks are nested more than {} levels deep", kMaxSyntaxDepth));
    }
    ~Level() { --parser_.depth_; }
    Level(const Level&) = delete;
    Level& operator=(const Level&) = delete;

   private:
    Parser& parser_;
  };

  // Statements.

  /// Up to one of the ending tags, whose name is left to read; without any, up to the template's end.
  Block block(Words ends) {
    const Level level(*this);
    Block body;
    const int begun = at_ > 0 ? tokens_[at_ - 1].line : 1;
    for (;;) {
      const Token token = here();
      if (token.kind == Kind::kEnd) {
        if (ends.size() > 0) refuse_at(begun, fmt::format("a block that begins here has no end: '{{% {} %}}' is missing", *(ends.end() - 1)));
        return body;
      }
      ++at_;
      if (token.kind == Kind::kData) {
        body.push_back(std::make_unique<Data>(token.line, token.text));
      } else if (token.kind == Kind::kPrintBegin) {
        body.push_back(std::make_unique<Print>(token.line, tuple()));
        expect(Kind::kPrintEnd, "'}}'");
      } else {
        for (const char* end : ends)
          if (here().is_name(end)) return body;
        body.push_back(statement());
        end_tag();
      }
    }
  }
  void end_tag() { expect(Kind::kBlockEnd, "'%}'"); }

  /// The rest of an opening tag, the block, and its ending tag's name.
  Block body_until(const char* end) {
    Block body = body_of({end});
    ++at_;
    return body;
  }
  Block body_of(Words ends) {
    skip_operator(":");
    end_tag();
    return block(ends);
  }

  std::unique_ptr<const Statement> statement() {
    const int line = here().line;
    if (here().kind != Kind::kName) refuse(fmt::format("a tag's name is expected, not {}", shown(here())));
    const std::string tag = take().text;
    if (tag == "if") return if_statement(line);
    if (tag == "for") return for_statement(line);
    if (tag == "set") return set_statement(line);
    if (tag == "macro") return macro_statement(line);
    if (tag == "call") return call_statement(line);
    if (tag == "filter") return filter_statement(line);
    if (tag == "with") return with_statement(line);
    if (tag == "generation") return generation_statement(line);
    if (tag == "print") return std::make_unique<Print>(line, expression());
    if (tag == "break" || tag == "continue") {
      if (loops_ == 0) refuse_at(line, fmt::format("'{}' outside of a loop", tag));
      return std::make_unique<Jump>(line, tag == "break" ? Flow::kBreak : Flow::kContinue);
    }
    static constexpr std::array kOthers{"include", "import", "from", "extends", "block", "autoescape"};
    if (std::find(kOthers.begin(), kOthers.end(), tag) != kOthers.end()) refuse_at(line, fmt::format("'{{% {} %}}' is not supported in chat templates", tag));
    refuse_at(line, fmt::format("there is no tag '{}' that may stand here", tag));
  }

  std::unique_ptr<const Statement> if_statement(int line) {
    std::vector<std::pair<ExpressionPtr, Block>> branches;
    Block otherwise;
    do {
      ExpressionPtr test = tuple(false);
      branches.emplace_back(std::move(test), body_of({"elif", "else", "endif"}));
    } while (skip_name("elif"));
    if (skip_name("else")) otherwise = body_until("endif");
    else ++at_;
    return std::make_unique<If>(line, std::move(branches), std::move(otherwise));
  }

  std::unique_ptr<const Statement> for_statement(int line) {
    Target target = target_of("in", false);
    if (!skip_name("in")) refuse(fmt::format("'in' is expected, not {}", shown(here())));
    ExpressionPtr items = tuple(false), test;
    if (skip_name("if")) test = expression();
    if (here().is_name("recursive")) refuse("loops that call themselves ('recursive') are not supported");
    ++loops_;
    Block body = body_of({"else", "endfor"}), otherwise;
    --loops_;
    if (skip_name("else")) otherwise = body_until("endfor");
    else ++at_;
    return std::make_unique<For>(line, number_of(kLoopName), For::Source{std::move(target), std::move(items), std::move(test)}, std::move(body),
                                 std::move(otherwise));
  }

  std::unique_ptr<const Statement> set_statement(int line) {
    Target target = target_of("", true);
    if (skip_operator("=")) return std::make_unique<Set>(line, std::move(target), tuple());
    Filters filters = block_filters();
    return std::make_unique<FilteredBlock>(line, std::move(target), std::move(filters), body_until("endset"));
  }

  std::unique_ptr<const Statement> filter_statement(int line) {
    Filters filters;
    filters.push_back(filter(nullptr));
    for (auto& more : block_filters()) filters.push_back(std::move(more));
    return std::make_unique<FilteredBlock>(line, std::nullopt, std::move(filters), body_until("endfilter"));
  }

  Filters block_filters() {
    Filters filters;
    while (skip_operator("|")) filters.push_back(filter(nullptr));
    return filters;
  }

  Signature signature(const std::string& name, bool parenthesized) {
    Signature result;
    result.name = name;
    if (parenthesized) {
      expect_operator("(");
      while (!here().is_operator(")")) {
        if (!result.parameters.empty()) expect_operator(",");
        if (here().is_operator(")")) break;
        result.parameters.push_back(number_of(expect_name()));
        if (skip_operator("=")) result.defaults.push_back(expression());
        else if (!result.defaults.empty()) refuse("a parameter without a default stands behind one that has one");
      }
      expect_operator(")");
    }
    return result;
  }

  /// What the body reads of the names that a macro gives it.
  void macro_body(Signature* result, const char* end) {
    const auto special = [&](const char* name) {
      const int number = number_of(name);
      return reads_.contains(number) && std::find(result->parameters.begin(), result->parameters.end(), number) == result->parameters.end() ? number : -1;
    };
    std::map<int, int> outer = std::exchange(reads_, {});
    const int loops = std::exchange(loops_, 0);
    result->body = body_until(end);
    loops_ = loops;
    result->caller = special("caller");
    result->varargs = special("varargs");
    result->kwargs = special("kwargs");
    reads_.merge(outer);
  }

  std::unique_ptr<const Statement> macro_statement(int line) {
    const std::string name = expect_name();
    Signature result = signature(name, true);
    macro_body(&result, "endmacro");
    return std::make_unique<MacroStatement>(line, number_of(name), std::move(result));
  }

  std::unique_ptr<const Statement> call_statement(int line) {
    Signature result = signature("caller", here().is_operator("("));
    ExpressionPtr called = expression();
    if (!dynamic_cast<const Call*>(called.get())) refuse_at(line, "a call block needs a call: {% call name(...) %}");
    macro_body(&result, "endcall");
    return std::make_unique<CallBlock>(line, std::unique_ptr<const Call>(dynamic_cast<const Call*>(called.release())), std::move(result));
  }

  std::unique_ptr<const Statement> with_statement(int line) {
    std::vector<std::pair<Target, ExpressionPtr>> variables;
    while (here().kind != Kind::kBlockEnd) {
      if (!variables.empty()) expect_operator(",");
      Target target = target_of("", false);
      expect_operator("=");
      variables.emplace_back(std::move(target), expression());
    }
    return std::make_unique<With>(line, std::move(variables), body_until("endwith"));
  }

  /// What the model says, for those who train on it: here a block like others.
  std::unique_ptr<const Statement> generation_statement(int line) {
    const int loops = std::exchange(loops_, 0);
    Block body = body_until("endgeneration");
    loops_ = loops;
    return std::make_unique<With>(line, std::vector<std::pair<Target, ExpressionPtr>>(), std::move(body));
  }

  /// Names up to a word or what ends a tag.
  Target target_of(std::string_view end, bool takes_attributes) {
    Target all;
    for (;;) {
      if (here().kind == Kind::kBlockEnd || here().is_operator(")") || (!end.empty() && here().is_name(end))) break;
      all.parts.push_back(one_target(takes_attributes));
      if (!skip_operator(",")) break;
      all.is_tuple = true;
    }
    if (all.parts.empty()) refuse(fmt::format("a name to set is expected, not {}", shown(here())));
    if (all.is_tuple) return all;
    Target only = std::move(all.parts.front());
    return only;
  }

  Target one_target(bool takes_attributes) {
    const Level level(*this);
    if (skip_operator("(")) {
      Target inner = target_of("", takes_attributes);
      expect_operator(")");
      return inner;
    }
    Target target;
    const int line = here().line;
    const std::string name = expect_name();
    static constexpr std::array kConstants{"true", "false", "none", "True", "False", "None"};
    if (std::find(kConstants.begin(), kConstants.end(), name) != kConstants.end()) refuse_at(line, fmt::format("'{}' cannot be set", name));
    target.name = number_of(name);
    if (takes_attributes && skip_operator(".")) target.attribute = expect_name();
    return target;
  }

  // Expressions, from the loosest to the tightest.

  /// An expression, or several with commas between them. `choices`: whether it may be `a if b else c`.
  ExpressionPtr tuple(bool choices = true, bool may_be_empty = false) {
    const int line = here().line;
    std::vector<ExpressionPtr> items;
    bool commas = false;
    for (;;) {
      const Token& token = here();
      if (token.kind == Kind::kPrintEnd || token.kind == Kind::kBlockEnd || token.is_operator(")")) break;
      items.push_back(choices ? expression() : logical_or());
      if (!skip_operator(",")) break;
      commas = true;
    }
    if (!commas && !items.empty()) return std::move(items.front());
    if (items.empty() && !may_be_empty) refuse(fmt::format("an expression is expected, not {}", shown(here())));
    return std::make_unique<ListLiteral>(line, List::Form::kTuple, std::move(items));
  }

  ExpressionPtr expression() {
    const Level level(*this);
    ExpressionPtr result = logical_or();
    int links = 0;
    while (here().is_name("if")) {
      const int line = take().line;
      check_chain(++links);
      ExpressionPtr test = logical_or(), otherwise;
      if (skip_name("else")) otherwise = expression();
      result = std::make_unique<Choice>(line, std::move(test), std::move(result), std::move(otherwise));
    }
    return result;
  }

  void check_chain(int links) const {
    if (links > kMaxChain) refuse(fmt::format("an expression has more than {} parts behind each other", kMaxChain));
  }

  ExpressionPtr logical_or() { return logical("or", true, &Parser::logical_and); }
  ExpressionPtr logical_and() { return logical("and", false, &Parser::logical_not); }
  ExpressionPtr logical(const char* word, bool is_or, ExpressionPtr (Parser::*part)()) {
    const int line = here().line;
    ExpressionPtr first = (this->*part)();
    if (!here().is_name(word)) return first;
    std::vector<ExpressionPtr> items;
    items.push_back(std::move(first));
    while (skip_name(word)) items.push_back((this->*part)());
    return std::make_unique<Logical>(line, is_or, std::move(items));
  }

  ExpressionPtr logical_not() {
    const Level level(*this);
    const int line = here().line;
    if (skip_name("not")) return std::make_unique<Not>(line, logical_not());
    return comparison();
  }

  ExpressionPtr comparison() {
    using Sign = Comparison::Sign;
    static const std::map<std::string, Sign, std::less<>> kSigns = {{"==", Sign::kEqual},  {"!=", Sign::kNotEqual}, {"<", Sign::kLess},
                                                                    {"<=", Sign::kAtMost}, {">", Sign::kMore},      {">=", Sign::kAtLeast}};
    const int line = here().line;
    ExpressionPtr first = sum();
    std::vector<std::pair<Sign, ExpressionPtr>> rest;
    for (;;) {
      const auto sign = here().kind == Kind::kOperator ? kSigns.find(here().text) : kSigns.end();
      if (sign != kSigns.end()) {
        ++at_;
        rest.emplace_back(sign->second, sum());
      } else if (skip_name("in")) {
        rest.emplace_back(Sign::kIn, sum());
      } else if (here().is_name("not") && behind().is_name("in")) {
        at_ += 2;
        rest.emplace_back(Sign::kNotIn, sum());
      } else {
        break;
      }
    }
    if (rest.empty()) return first;
    return std::make_unique<Comparison>(line, std::move(first), std::move(rest));
  }

  using Sign = std::pair<const char*, Arithmetic::Operator>;
  ExpressionPtr arithmetic(std::initializer_list<Sign> signs, ExpressionPtr (Parser::*part)()) {
    const int line = here().line;
    ExpressionPtr first = (this->*part)();
    std::vector<std::pair<Arithmetic::Operator, ExpressionPtr>> rest;
    for (;;) {
      const auto sign = std::find_if(signs.begin(), signs.end(), [&](const Sign& one) { return here().is_operator(one.first); });
      if (sign == signs.end()) break;
      ++at_;
      rest.emplace_back(sign->second, (this->*part)());
    }
    if (rest.empty()) return first;
    return std::make_unique<Arithmetic>(line, std::move(first), std::move(rest));
  }
  ExpressionPtr sum() { return arithmetic({{"+", add}, {"-", subtract}}, &Parser::concatenation); }

  ExpressionPtr concatenation() {
    const int line = here().line;
    ExpressionPtr first = product();
    if (!here().is_operator("~")) return first;
    std::vector<ExpressionPtr> items;
    items.push_back(std::move(first));
    while (skip_operator("~")) items.push_back(product());
    return std::make_unique<Concatenation>(line, std::move(items));
  }

  ExpressionPtr product() { return arithmetic({{"*", multiply}, {"/", divide}, {"//", floor_divide}, {"%", modulo}}, &Parser::powers); }
  ExpressionPtr powers() { return arithmetic({{"**", power}}, &Parser::filtered_unary); }
  ExpressionPtr filtered_unary() { return unary(true); }

  ExpressionPtr unary(bool with_filters) {
    const Level level(*this);
    const int line = here().line;
    ExpressionPtr result;
    if (skip_operator("-")) result = std::make_unique<Signed>(line, true, unary(false));
    else if (skip_operator("+")) result = std::make_unique<Signed>(line, false, unary(false));
    else result = primary();
    int links = 0;
    result = postfix(std::move(result), links);
    return with_filters ? filters_and_tests(std::move(result), links) : std::move(result);
  }

  ExpressionPtr primary() {
    const Token token = here();
    switch (token.kind) {
      case Kind::kName: ++at_; return name(token);
      case Kind::kText: {
        std::string text;
        while (here().kind == Kind::kText) text += take().text;
        return std::make_unique<Constant>(token.line, Value(std::move(text)));
      }
      case Kind::kInt:
      case Kind::kFloat: ++at_; return std::make_unique<Constant>(token.line, number(token));
      case Kind::kOperator:
        if (token.text == "(") {
          ++at_;
          ExpressionPtr inner = tuple(true, true);
          expect_operator(")");
          return inner;
        }
        if (token.text == "[") return list_literal();
        if (token.text == "{") return dict_literal();
        [[fallthrough]];
      default: refuse(fmt::format("an expression is expected, not {}", shown(token)));
    }
  }

  ExpressionPtr name(const Token& token) {
    if (token.text == "true" || token.text == "True") return std::make_unique<Constant>(token.line, Value(true));
    if (token.text == "false" || token.text == "False") return std::make_unique<Constant>(token.line, Value(false));
    if (token.text == "none" || token.text == "None") return std::make_unique<Constant>(token.line, Value(None()));
    const int number = number_of(token.text);
    ++reads_[number];
    return std::make_unique<Name>(token.line, number);
  }

  static Value number(const Token& token) {
    if (token.kind == Kind::kFloat) return std::strtod(token.text.c_str(), nullptr);
    const char second = token.text.size() > 1 ? token.text[1] : '0';
    const int base = second == 'x' || second == 'X' ? 16 : second == 'o' || second == 'O' ? 8 : second == 'b' || second == 'B' ? 2 : 10;
    const char* begin = token.text.c_str() + (base == 10 ? 0 : 2);
    const char* end = token.text.c_str() + token.text.size();
    int64_t value = 0;
    const auto [rest, error] = std::from_chars(begin, end, value, base);
    if (error == std::errc::result_out_of_range) refuse_at(token.line, fmt::format("the number {} does not fit 64 bits", token.text.substr(0, 40)));
    if (error != std::errc() || rest != end) refuse_at(token.line, fmt::format("'{}' is no number", token.text.substr(0, 40)));
    return value;
  }

  ExpressionPtr list_literal() {
    const int line = take().line;
    std::vector<ExpressionPtr> items;
    while (!here().is_operator("]")) {
      if (!items.empty()) expect_operator(",");
      if (here().is_operator("]")) break;
      items.push_back(expression());
    }
    ++at_;
    return std::make_unique<ListLiteral>(line, List::Form::kList, std::move(items));
  }

  ExpressionPtr dict_literal() {
    const int line = take().line;
    std::vector<std::pair<ExpressionPtr, ExpressionPtr>> items;
    while (!here().is_operator("}")) {
      if (!items.empty()) expect_operator(",");
      if (here().is_operator("}")) break;
      ExpressionPtr key = expression();
      expect_operator(":");
      items.emplace_back(std::move(key), expression());
    }
    ++at_;
    return std::make_unique<DictLiteral>(line, std::move(items));
  }

  ExpressionPtr postfix(ExpressionPtr of, int& links) {
    for (;;) {
      const int line = here().line;
      if (here().is_operator("(")) {
        of = std::make_unique<Call>(line, std::move(of), arguments());
      } else if (skip_operator(".")) {
        const Token token = take();
        if (token.kind == Kind::kName) of = std::make_unique<AttributeOf>(line, std::move(of), token.text);
        else if (token.kind == Kind::kInt) of = std::make_unique<ItemOf>(line, std::move(of), std::make_unique<Constant>(line, number(token)));
        else refuse_at(token.line, fmt::format("a name or a number is expected behind '.', not {}", shown(token)));
      } else if (skip_operator("[")) {
        of = subscript(line, std::move(of));
      } else {
        return of;
      }
      check_chain(++links);
    }
  }

  ExpressionPtr subscript(int line, ExpressionPtr of) {
    ExpressionPtr bounds[3];
    int colons = 0;
    for (;;) {
      if (skip_operator(":")) {
        if (++colons > 2) refuse("a slice has more than two colons");
      } else if (here().is_operator("]")) {
        break;
      } else {
        if (bounds[colons]) refuse(fmt::format("']' is expected, not {}", shown(here())));
        bounds[colons] = expression();
        if (here().is_operator(",")) refuse("an index of several values is not supported");
      }
    }
    ++at_;
    if (colons > 0) return std::make_unique<SliceOf>(line, std::move(of), std::move(bounds[0]), std::move(bounds[1]), std::move(bounds[2]));
    if (!bounds[0]) refuse_at(line, "an index is missing in '[]'");
    return std::make_unique<ItemOf>(line, std::move(of), std::move(bounds[0]));
  }

  Arguments arguments() {
    expect_operator("(");
    Arguments result;
    bool first = true;
    while (!here().is_operator(")")) {
      if (!std::exchange(first, false)) expect_operator(",");
      if (here().is_operator(")")) break;
      if (skip_operator("*")) {
        if (result.list || result.dict) refuse("a call has two lists of arguments");
        result.list = expression();
      } else if (skip_operator("**")) {
        if (result.dict) refuse("a call has two dicts of arguments");
        result.dict = expression();
      } else if (here().kind == Kind::kName && behind().is_operator("=")) {
        std::string name = take().text;
        ++at_;
        result.named.emplace_back(std::move(name), expression());
      } else {
        if (!result.named.empty() || result.list || result.dict) refuse("an argument without a name stands behind one that has a name");
        result.positional.push_back(expression());
      }
    }
    expect_operator(")");
    return result;
  }

  std::string dotted_name() {
    std::string name = expect_name();
    while (skip_operator(".")) name += "." + expect_name();
    return name;
  }

  std::unique_ptr<const Applied> filter(ExpressionPtr of) {
    const int line = here().line;
    std::string name = dotted_name();
    const Operation found = find_filter(name);
    Arguments given;
    if (here().is_operator("(")) given = arguments();
    return std::make_unique<const Applied>(line, Applied::Operator{"filter", std::move(name), found}, std::move(of), std::move(given));
  }

  ExpressionPtr test(ExpressionPtr of) {
    const int line = here().line;
    const bool negated = skip_name("not");
    std::string name = dotted_name();
    const Operation found = find_test(name);
    Arguments given;
    const Token& token = here();
    const bool begins_value = token.kind == Kind::kName || token.kind == Kind::kText || token.kind == Kind::kInt || token.kind == Kind::kFloat ||
                              token.is_operator("[") || token.is_operator("{");
    if (token.is_operator("(")) {
      given = arguments();
    } else if (begins_value && !token.is_name("else") && !token.is_name("or") && !token.is_name("and")) {
      if (token.is_name("is")) refuse("tests cannot be chained with 'is'");
      int links = 0;
      given.positional.push_back(postfix(primary(), links));
    }
    ExpressionPtr result = std::make_unique<Applied>(line, Applied::Operator{"test", std::move(name), found}, std::move(of), std::move(given));
    if (negated) result = std::make_unique<Not>(line, std::move(result));
    return result;
  }

  ExpressionPtr filters_and_tests(ExpressionPtr of, int& links) {
    for (;;) {
      const int line = here().line;
      if (skip_operator("|")) of = filter(std::move(of));
      else if (skip_name("is")) of = test(std::move(of));
      else if (here().is_operator("(")) of = std::make_unique<Call>(line, std::move(of), arguments());
      else return of;
      check_chain(++links);
    }
  }

  std::vector<Token> tokens_;
  size_t at_ = 0;
  int depth_ = 0, loops_ = 0;
  std::vector<std::string> names_;
  std::map<std::string, int> numbers_;
  std::map<int, int> reads_;  ///< how often each name is read, in the innermost macro
};

}  // namespace

Syntax parse_template(std::string_view source) { return Parser(source).run(); }

}  // namespace flexgen::jinja
